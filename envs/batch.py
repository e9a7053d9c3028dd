"""Many ParallelEnvs in lock step, as arrays; their contract is checked on the way."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
from pettingzoo import ParallelEnv

from maicc.envs.spaces import agent_sizes, largest_sizes, name_of
from maicc.envs.tasks import TaskFamily, TeamReward
from maicc.types import Task, UserError


class BatchStep(NamedTuple):
    """Result of a step, or of a reset.

    An environment that has ended keeps its last observation and pays 0. An agent that has left
    before the end sees nothing, zeros, and has one legal action.
    """

    observations: np.ndarray  # (B, N, O) float32
    action_mask: np.ndarray  # (B, N, A) bool
    alive: np.ndarray  # (B, N) bool, agents that are there and take part: neither dead nor gone
    rewards: np.ndarray  # (B,) float32, of the team
    individual_rewards: np.ndarray  # (B, N) float32
    terminated: np.ndarray  # (B,) bool
    truncated: np.ndarray  # (B,) bool

    @property
    def done(self) -> np.ndarray:
        """Environments that have ended: (B,) bool."""
        return self.terminated | self.truncated


class BatchEnv:
    """Steps `envs` together, as arrays of one size.

    Teams, observations and action sets that are smaller than the largest are padded: with agents
    that are not there (`agent_mask`), zeros, and actions that are never legal. Action masks come
    from `infos[agent]["action_mask"]` or from a dict observation's `action_mask`; without either
    every action of the agent is legal. An agent is alive until it leaves, or until
    `infos[agent]["alive"]` is False, where the dead stay in the environment.

    Args:
        envs: One per run.
        team_reward: The way in which the agents' rewards make the team's.
        max_steps: Time limit, for environments that know none.
        sizes: Agents, observation numbers and actions to pad to; the largest among `envs` if None.

    Raises:
        UserError: agents, spaces, masks or rewards of an environment break the contract.
    """

    def __init__(
        self,
        envs: Sequence[ParallelEnv],
        team_reward: TeamReward = "sum",
        max_steps: int | None = None,
        sizes: tuple[int, int, int] | None = None,
    ) -> None:
        if not envs:
            raise UserError("BatchEnv needs at least one environment")
        self.envs = list(envs)
        self.team_reward = team_reward
        self.max_steps = max_steps
        self.rosters = [list(env.possible_agents) for env in envs]
        self._sizes = [
            [agent_sizes(env, agent) for agent in roster]
            for env, roster in zip(self.envs, self.rosters, strict=True)
        ]
        env_sizes = [largest_sizes(env) for env in self.envs]
        N, O, A = sizes or tuple(map(max, zip(*env_sizes, strict=True)))  # noqa: E741
        for env, needed in zip(self.envs, env_sizes, strict=True):
            if needed[0] > N or needed[1] > O or needed[2] > A:
                raise UserError(
                    f"{name_of(env)}: agents, observation numbers and actions {needed} do not fit "
                    f"into the family's {(N, O, A)}; raise its `sizes`"
                )
        B = len(self.envs)
        self.agent_mask = np.arange(N) < np.array([[len(roster)] for roster in self.rosters])
        self._observations = np.zeros((B, N, O), np.float32)
        self._mask = np.zeros((B, N, A), bool)
        self._mask[~self.agent_mask, 0] = True
        self._alive = self.agent_mask.copy()
        self._terminated = np.ones(B, bool)
        self._truncated = np.zeros(B, bool)
        # episodes in which the game broke off, as `infos[agent]["game_crashed"]` tells
        self.crashed = np.zeros(B, bool)
        self._steps = 0

    def reset(self, seeds: Sequence[int]) -> BatchStep:
        """Starts an episode in every environment, with one seed each."""
        self._terminated[:] = False
        self._truncated[:] = False
        self.crashed[:] = False
        self._steps = 0
        for b, (env, seed) in enumerate(zip(self.envs, seeds, strict=True)):
            observations, infos = env.reset(seed=int(seed))
            _require_every_agent(env, self.rosters[b], observations)
            self._read(b, observations, infos, set(), ended=False)
        return self._result(np.zeros(self._mask.shape[:2], np.float32))

    def step(self, actions: np.ndarray) -> BatchStep:
        """Steps every environment that has not ended.

        Args:
            actions: (B, N) int; those of environments that have ended are not read.
        """
        rewards = np.zeros(self._mask.shape[:2], np.float32)
        self._steps += 1
        for b in range(len(self.envs)):
            if not (self._terminated[b] or self._truncated[b]):
                rewards[b] = self._step_one(b, actions[b])
        return self._result(rewards)

    def _step_one(self, b: int, actions: np.ndarray) -> np.ndarray:
        """Steps environment `b` with actions (N,), and returns its agents' rewards (N,)."""
        env, roster = self.envs[b], self.rosters[b]
        chosen = dict(zip(roster, actions.tolist(), strict=False))
        observations, paid, terminations, truncations, infos = env.step(
            {agent: chosen[agent] for agent in roster if agent in env.agents}
        )
        rewards = self._individual_rewards(b, paid)
        _require_finite_rewards(env, paid, rewards, self._steps)
        over = [terminations.get(a, True) or truncations.get(a, True) for a in roster]
        ended = not env.agents or all(over)
        self._terminated[b] = ended and all(terminations.get(a, True) for a in roster)
        at_limit = self._steps == self.max_steps
        self._truncated[b] = (ended or at_limit) and not self._terminated[b]
        self.crashed[b] = any(info.get("game_crashed", False) for info in infos.values())
        gone = {a for a, is_over in zip(roster, over, strict=True) if is_over and not ended}
        self._read(b, observations, infos, gone, ended=ended)
        return rewards

    def _individual_rewards(self, b: int, paid: Mapping[str, float]) -> np.ndarray:
        """Rewards (N,) of the agents of environment `b`; a missing one is the shared one, or 0."""
        missing = next(iter(paid.values()), 0.0) if self.team_reward == "shared" else 0.0
        rewards = np.zeros(self._mask.shape[1], np.float32)
        for i, agent in enumerate(self.rosters[b]):
            rewards[i] = paid.get(agent, missing)
        return rewards

    def close(self) -> None:
        """Closes all environments, also where one refuses."""
        with ExitStack() as stack:
            for env in self.envs:
                stack.callback(env.close)

    def _result(self, rewards: np.ndarray) -> BatchStep:
        return BatchStep(
            self._observations.copy(),
            self._mask.copy(),
            self._alive.copy(),
            team_rewards(rewards, self.agent_mask, self.team_reward),
            rewards,
            self._terminated.copy(),
            self._truncated.copy(),
        )

    def _read(
        self,
        b: int,
        observations: Mapping[str, Any],
        infos: Mapping[str, Any],
        gone: Collection[str],
        *,
        ended: bool,
    ) -> None:
        """Takes over the observations, action masks and lives of environment `b`'s agents.

        Args:
            gone: Agents that have left before the end. They see nothing and may only do action 0,
                which nobody plays.
        """
        for i, agent in enumerate(self.rosters[b]):
            info = infos.get(agent, {})
            self._alive[b, i] = agent not in gone and info.get("alive", True)
            if agent in gone:
                self._mask[b, i] = np.arange(self._mask.shape[2]) == 0
                self._observations[b, i] = 0.0
            elif agent in observations:
                mask = info.get("action_mask")
                self._read_agent(b, i, observations[agent], mask, ended=ended)
        _require_known_agents(self.envs[b], self.rosters[b], observations)

    def _read_agent(self, b: int, i: int, observed: Any, mask: Any, *, ended: bool) -> None:
        """Takes over what agent `i` of environment `b` observed, and its action mask if any."""
        env, agent, (size, n_actions) = self.envs[b], self.rosters[b][i], self._sizes[b][i]
        if isinstance(observed, Mapping):
            mask = observed.get("action_mask", mask)
            observed = observed["observation"]
        observation = np.asarray(observed, np.float32)
        _require_shape(env, agent, observation, size)
        _require_finite_observation(env, agent, observation)
        self._observations[b, i, :size] = observation
        self._mask[b, i, :n_actions] = True
        if mask is not None:
            mask = np.asarray(mask)
            _require_mask_shape(env, agent, mask, n_actions)
            if not ended:
                _require_legal_action(env, agent, mask)
            self._mask[b, i, :n_actions] = mask.astype(bool)


# The contract of an environment, a rule each. All raise UserError.


def _require_every_agent(
    env: ParallelEnv, roster: Sequence[str], observations: Collection[str]
) -> None:
    missing = set(roster) - set(observations)
    if missing:
        raise UserError(
            f"{name_of(env)} gave no observation for {sorted(missing)} at reset; every "
            "agent takes part from the start"
        )


def _require_known_agents(
    env: ParallelEnv, roster: Sequence[str], observations: Collection[str]
) -> None:
    unknown = set(observations) - set(roster)
    if unknown:
        raise UserError(
            f"{name_of(env)} returned agents {sorted(unknown)} that are not in "
            f"possible_agents {roster}; the roster must be fixed"
        )


def _require_finite_rewards(
    env: ParallelEnv, paid: Mapping[str, float], rewards: np.ndarray, step: int
) -> None:
    if not np.isfinite(rewards).all():
        raise UserError(f"{name_of(env)} paid {dict(paid)} at step {step}: rewards must be finite")


def _require_shape(env: ParallelEnv, agent: str, observation: np.ndarray, size: int) -> None:
    if observation.shape != (size,):
        raise UserError(
            f"{name_of(env)}: {agent} observed shape {observation.shape}, its space says "
            f"{(size,)}; make observation_space and the observations agree"
        )


def _require_finite_observation(env: ParallelEnv, agent: str, observation: np.ndarray) -> None:
    if not np.isfinite(observation).all():
        raise UserError(
            f"{name_of(env)}: {agent} observed {observation}: observations must be finite"
        )


def _require_mask_shape(env: ParallelEnv, agent: str, mask: np.ndarray, n_actions: int) -> None:
    if mask.shape != (n_actions,):
        raise UserError(
            f"{name_of(env)}: action_mask of {agent} has shape {mask.shape}, "
            f"expected ({n_actions},), one entry per action"
        )


def _require_legal_action(env: ParallelEnv, agent: str, mask: np.ndarray) -> None:
    if not mask.any():
        raise UserError(
            f"{name_of(env)}: action_mask of {agent} allows no action; leave at least one legal"
        )


def team_rewards(individual: np.ndarray, agent_mask: np.ndarray, kind: TeamReward) -> np.ndarray:
    """Team rewards (...,) from individual rewards (..., N), which are 0 for absent agents."""
    if kind == "shared":
        return individual[..., 0]
    total = individual.sum(-1)
    return total if kind == "sum" else total / agent_mask.sum(-1).astype(np.float32)


class _Telling:
    """Appends what is revealed of each task to the observations of a batch.

    Args:
        env: Environments in lock step.
        told: Numbers that tell the hidden part of each task, (B, R).
    """

    def __init__(self, env: Any, told: np.ndarray) -> None:
        self._env, self._told = env, told

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def reset(self, seeds: Sequence[int]) -> BatchStep:
        return self._tell(self._env.reset(seeds))

    def step(self, actions: np.ndarray) -> BatchStep:
        return self._tell(self._env.step(actions))

    def _tell(self, step: BatchStep) -> BatchStep:
        """Tells the agents that are alive; the others see zeros."""
        told = self._told[:, None] * step.alive[..., None]
        return step._replace(observations=np.concatenate([step.observations, told], -1))


def batch_env(family: TaskFamily, tasks: Sequence[Task]) -> BatchEnv:
    """Makes one environment for each task, in lock step, padded to the family's sizes."""
    if family.tells:
        hidden = batch_env(replace(family, tells=False), tasks)
        told = np.stack([family.hidden_part(task) for task in tasks])
        return cast(BatchEnv, _Telling(hidden, told))
    if family.make_batch is not None:
        return family.make_batch(tasks)
    s = family.spec
    return BatchEnv(
        [family.make_env(task) for task in tasks],
        family.team_reward,
        s.max_steps,
        (s.n_agents, s.observation_size, s.n_actions),
    )
