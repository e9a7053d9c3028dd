"""Many ParallelEnvs in lock step, as arrays, with the contract checked on the way."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

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
    def done(self) -> np.ndarray:  # (B,) bool
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
        team_reward: How the agents' rewards make the team's.
        max_steps: Time limit, for environments that know none.
        sizes: Agents, observation numbers and actions to pad to; the largest among `envs` if None.

    Raises:
        UserError: an environment whose agents, spaces, masks or rewards break the contract.
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
        each = [largest_sizes(env) for env in self.envs]
        N, O, A = sizes or tuple(map(max, zip(*each, strict=True)))  # noqa: E741
        for env, have in zip(self.envs, each, strict=True):
            if have[0] > N or have[1] > O or have[2] > A:
                raise UserError(
                    f"{name_of(env)}: agents, observation numbers and actions {have} do not fit "
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
        self._terminated[:] = False
        self._truncated[:] = False
        self.crashed[:] = False
        self._steps = 0
        for b, (env, seed) in enumerate(zip(self.envs, seeds, strict=True)):
            observations, infos = env.reset(seed=int(seed))
            missing = set(self.rosters[b]) - set(observations)
            if missing:
                raise UserError(
                    f"{name_of(env)} gave no observation for {sorted(missing)} at reset; every "
                    "agent takes part from the start"
                )
            self._read(b, observations, infos, set(), ended=False)
        return self._result(np.zeros(self._mask.shape[:2], np.float32))

    def step(self, actions: np.ndarray) -> BatchStep:
        """`actions` (B, N) int; those of environments that have ended are not read."""
        rewards = np.zeros(self._mask.shape[:2], np.float32)
        self._steps += 1
        for b, env in enumerate(self.envs):
            if self._terminated[b] or self._truncated[b]:
                continue
            roster = self.rosters[b]
            chosen = dict(zip(roster, actions[b].tolist(), strict=False))
            observations, paid, terminations, truncations, infos = env.step(
                {agent: chosen[agent] for agent in roster if agent in env.agents}
            )
            shared = next(iter(paid.values()), 0.0)
            for i, agent in enumerate(roster):
                rewards[b, i] = paid.get(agent, shared if self.team_reward == "shared" else 0.0)
            if not np.isfinite(rewards[b]).all():
                raise UserError(
                    f"{name_of(env)} paid {dict(paid)} at step {self._steps}: rewards must be "
                    "finite"
                )
            over = [terminations.get(a, True) or truncations.get(a, True) for a in roster]
            ended = not env.agents or all(over)
            self._terminated[b] = ended and all(terminations.get(a, True) for a in roster)
            limit = self._steps == self.max_steps
            self._truncated[b] = (ended or limit) and not self._terminated[b]
            self.crashed[b] = any(info.get("game_crashed", False) for info in infos.values())
            gone = {a for a, out in zip(roster, over, strict=True) if out and not ended}
            self._read(b, observations, infos, gone, ended=ended)
        return self._result(rewards)

    def close(self) -> None:
        with ExitStack() as stack:  # all of them, also where one refuses
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
        """Takes over what the agents of environment `b` observe.

        Those that are `gone` before the end see nothing and may only do action 0, which nobody
        plays.
        """
        for i, agent in enumerate(self.rosters[b]):
            self._alive[b, i] = agent not in gone and infos.get(agent, {}).get("alive", True)
            if agent in gone:
                self._mask[b, i] = np.arange(self._mask.shape[2]) == 0
                self._observations[b, i] = 0.0
            if agent in gone or agent not in observations:
                continue
            seen = observations[agent]
            mask = infos.get(agent, {}).get("action_mask")
            if isinstance(seen, Mapping):
                mask = seen.get("action_mask", mask)
                seen = seen["observation"]
            seen = np.asarray(seen, np.float32)
            size, n_actions = self._sizes[b][i]
            if seen.shape != (size,):
                raise UserError(
                    f"{name_of(self.envs[b])}: {agent} observed shape {seen.shape}, its space says "
                    f"{(size,)}; make observation_space and the observations agree"
                )
            if not np.isfinite(seen).all():
                raise UserError(
                    f"{name_of(self.envs[b])}: {agent} observed {seen}: observations must be finite"
                )
            self._observations[b, i, :size] = seen
            self._mask[b, i, :n_actions] = True
            if mask is not None:
                mask = np.asarray(mask)
                if mask.shape != (n_actions,):
                    raise UserError(
                        f"{name_of(self.envs[b])}: action_mask of {agent} has shape {mask.shape}, "
                        f"expected ({n_actions},), one entry per action"
                    )
                if not mask.any() and not ended:
                    raise UserError(
                        f"{name_of(self.envs[b])}: action_mask of {agent} allows no action; "
                        "leave at least one legal"
                    )
                self._mask[b, i, :n_actions] = mask.astype(bool)
        unknown = set(observations) - set(self.rosters[b])
        if unknown:
            raise UserError(
                f"{name_of(self.envs[b])} returned agents {sorted(unknown)} that are not in "
                f"possible_agents {self.rosters[b]}; the roster must be fixed"
            )


def team_rewards(individual: np.ndarray, agent_mask: np.ndarray, kind: TeamReward) -> np.ndarray:
    """Individual rewards (..., N), 0 for agents that are not there -> the team's (...,)."""
    if kind == "shared":
        return individual[..., 0]
    total = individual.sum(-1)
    return total if kind == "sum" else total / agent_mask.sum(-1).astype(np.float32)


def batch_env(family: TaskFamily, tasks: Sequence[Task]) -> BatchEnv:
    """One environment for each task, in lock step, padded to the family's sizes."""
    if family.make_batch is not None:
        return family.make_batch(tasks)
    s = family.spec
    return BatchEnv(
        [family.make_env(task) for task in tasks],
        family.team_reward,
        s.max_steps,
        (s.n_agents, s.observation_size, s.n_actions),
    )
