"""Many ParallelEnvs in lock step, as arrays; their contract is checked on the way."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
from pettingzoo import ParallelEnv

from maicc.envs.adapters import RESET, STEP, parts_of, reset_env
from maicc.envs.rules import (
    number,
    numbers,
    require_agents,
    require_every_agent,
    require_finite_observation,
    require_known_agents,
    require_mask,
    require_mask_shape,
    require_named,
    require_shape,
    require_told_ends,
    truth,
)
from maicc.envs.spaces import agent_sizes, largest_sizes, name_of, roster_of
from maicc.envs.tasks import TaskFamily, TeamReward
from maicc.types import OutsideError, Task, UserError


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
        UserError: an environment breaks the contract: in its agents, its spaces, or in what reset
            and step return. Nothing that is missing or odd there is given a meaning.
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
        if len({id(env.unwrapped) for env in self.envs}) < len(self.envs):
            raise UserError(
                f"`make` gave the same {name_of(self.envs[0])} twice; it must make a fresh "
                "environment each time, as many are played side by side"
            )
        self.rosters = [roster_of(env) for env in envs]
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
        self._told_mask = self._mask.astype(float)  # as the environments told it
        self._alive = self.agent_mask.copy()
        self._sharing = self.agent_mask.copy()  # (B, N) whose rewards are the team's if `shared`
        self._terminated = np.ones(B, bool)
        self._truncated = np.zeros(B, bool)
        # episodes in which the game broke off, as `infos[agent]["game_crashed"]` tells
        self.crashed = np.zeros(B, bool)
        self._crashed_before = np.zeros(B, bool)  # in the episode before
        self._steps = 0

    def reset(self, seeds: Sequence[int]) -> BatchStep:
        """Starts an episode in every environment, with one seed each."""
        self._terminated[:] = False
        self._truncated[:] = False
        self._crashed_before[:] = self.crashed
        self.crashed[:] = False
        self._steps = 0
        for b, (env, seed) in enumerate(zip(self.envs, seeds, strict=True)):
            parts = parts_of(env, "reset", reset_env(env, seed=int(seed)), RESET)
            observations, infos = parts
            require_every_agent(env, self.rosters[b], observations)
            require_known_agents(env, self.rosters[b], [observations])
            require_agents(env, self.rosters[b], at_reset=True)
            require_named(env, "reset", self.rosters[b], zip(RESET, parts, strict=True))
            with np.errstate(over="ignore"):
                self._read(b, observations, infos, set())
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
        env, roster, call = self.envs[b], self.rosters[b], f"step {self._steps}"
        acting = [agent for agent in roster if agent in env.agents]
        chosen = dict(zip(roster, actions.tolist(), strict=False))
        result = env.step({agent: chosen[agent] for agent in acting})
        parts = parts_of(env, call, result, STEP)
        observations, paid, terminations, truncations, infos = parts
        staying = require_agents(env, acting)
        if staying:  # who is gone from `agents`, and is named nowhere, has left before this step
            acting = [a for a in acting if a in staying or any(a in part for part in parts)]
        require_named(env, call, acting, zip(STEP, parts, strict=True))
        require_known_agents(env, roster, parts[:-1])  # infos may hold more
        terminated, truncated = (
            {a: truth(env, f"{name} at {call}", a, ends[a]) for a in acting}
            for name, ends in (("termination", terminations), ("truncation", truncations))
        )
        over = {a: a not in acting or terminated[a] or truncated[a] for a in roster}
        require_told_ends(env, call, [a for a in acting if a not in staying and not over[a]])
        ended = not staying or all(over.values())
        self._terminated[b] = ended and all(terminated.values())
        at_limit = self._steps == self.max_steps
        self._truncated[b] = (ended or at_limit) and not self._terminated[b]
        self.crashed[b] = any(
            truth(env, "game_crashed", a, infos[a]["game_crashed"])
            for a in acting
            if "game_crashed" in infos[a]
        )
        if self.crashed[b] and self._crashed_before[b]:
            raise OutsideError(
                f"{name_of(env)} broke off in two episodes running (`game_crashed`): see to the "
                "game, and give the same command again"
            )
        gone = set() if ended else {a for a in roster if over[a]}
        with np.errstate(over="ignore"):  # too large for 32 bits is infinite, and is refused
            self._read(b, observations, infos, gone)
            return self._individual_rewards(b, paid, acting)

    def _individual_rewards(
        self, b: int, paid: Mapping[str, Any], acting: Collection[str]
    ) -> np.ndarray:
        """Rewards (N,) of the agents of environment `b`; those that have left are paid nothing.

        If the reward is shared, it is what the living are paid, and those that have left get it
        too.
        """
        env, call = self.envs[b], f"step {self._steps}"
        rewards, named = np.zeros((2, self._mask.shape[1]), np.float32)
        for i, agent in enumerate(self.rosters[b]):
            if agent in paid:
                rewards[i], named[i] = number(env, f"reward at {call}", agent, paid[agent]), 1
        if not np.isfinite(rewards).all():
            raise UserError(f"{name_of(env)} paid {dict(paid)} at {call}: rewards must be finite")
        if self.team_reward == "shared":
            acted = np.isin(np.arange(len(rewards)), [self.rosters[b].index(a) for a in acting])
            living = acted & self._alive[b]
            self._sharing[b] = living if living.any() else acted
            shared = rewards[self._sharing[b]]
            if not np.allclose(shared, shared[0], 1e-5, 1e-6):
                raise UserError(
                    f"{name_of(env)} paid {dict(paid)} at {call}, and team_reward=shared means "
                    "that every agent is paid the same: use sum or mean, and tell of the dead that "
                    "stay by infos[agent]['alive']"
                )
            rewards[(named == 0) & self.agent_mask[b]] = shared[0]
        return rewards

    def close(self) -> None:
        """Closes all environments, also where one refuses."""
        with ExitStack() as stack:
            for env in self.envs:
                stack.callback(env.close)

    def _result(self, rewards: np.ndarray) -> BatchStep:
        self._require_sound()
        return BatchStep(
            self._observations.copy(),
            self._mask.copy(),
            self._alive.copy(),
            team_rewards(rewards, self.agent_mask, self.team_reward, self._sharing),
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
    ) -> None:
        """Takes over the observations, action masks and lives of environment `b`'s agents.

        Args:
            gone: Agents that have left before the end. They see nothing and may only do action 0,
                which nobody plays.
        """
        for i, agent in enumerate(self.rosters[b]):
            if agent in gone:
                self._alive[b, i] = False
                self._told_mask[b, i] = np.arange(self._mask.shape[2]) == 0
                self._observations[b, i] = 0.0
            elif agent in observations:
                info = infos.get(agent, {})  # of an agent that had left when the episode ended
                told = "alive" in info
                self._alive[b, i] = not told or truth(self.envs[b], "alive", agent, info["alive"])
                mask = info.get("action_mask")
                self._read_agent(b, i, observations[agent], mask)

    def _read_agent(self, b: int, i: int, observed: Any, mask: Any) -> None:
        """Takes over what agent `i` of environment `b` observed, and its action mask if any."""
        env, agent, (size, n_actions) = self.envs[b], self.rosters[b][i], self._sizes[b][i]
        if isinstance(observed, Mapping):
            mask = observed.get("action_mask", mask)
            if "observation" not in observed:
                raise UserError(
                    f"{name_of(env)}: {agent} observed a dict of {list(observed)}, expected "
                    "'observation' in it"
                )
            observed = observed["observation"]
        observation = numbers(env, "observation", agent, observed)
        require_shape(env, agent, observation, size)
        self._observations[b, i, :size] = observation
        self._told_mask[b, i, :n_actions] = True
        if mask is not None:
            mask = numbers(env, "action_mask", agent, mask)
            require_mask_shape(env, agent, mask, n_actions)
            self._told_mask[b, i, :n_actions] = mask

    def _require_sound(self) -> None:
        """Looks at all observations and action masks at once, and takes over the masks."""
        self._mask[:] = self._told_mask != 0
        finite = np.isfinite(self._observations).all(-1)
        zeros_and_ones = (self._mask == self._told_mask).all(-1)
        ended = self._terminated | self._truncated
        sound = finite & zeros_and_ones & (self._mask.any(-1) | ended[:, None])
        for b, i in np.argwhere(~sound).tolist():
            env, agent, (size, n_actions) = self.envs[b], self.rosters[b][i], self._sizes[b][i]
            require_finite_observation(env, agent, self._observations[b, i, :size])
            require_mask(env, agent, self._told_mask[b, i, :n_actions])


def team_rewards(
    individual: np.ndarray, agent_mask: np.ndarray, kind: TeamReward, sharing: np.ndarray
) -> np.ndarray:
    """Team rewards (...,) from individual rewards (..., N), which are 0 for absent agents.

    Args:
        agent_mask: (..., N) agents that are there.
        sharing: (..., N) agents that are all paid the team's reward, if it is `shared`.
    """
    if kind == "shared":
        return np.take_along_axis(individual, sharing.argmax(-1)[..., None], -1)[..., 0]
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
    sizes = (s.n_agents, s.observation_size, s.n_actions)
    with ExitStack() as opened:  # closed if one of them can't be made
        envs = []
        for task in tasks:
            envs.append(family.make_env(task))
            opened.callback(envs[-1].close)
        batch = BatchEnv(envs, family.team_reward, s.max_steps, sizes)
        opened.pop_all()
    return batch
