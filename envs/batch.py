"""Many ParallelEnvs in lock step, as arrays, with the contract checked on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from maicc.envs.tasks import observation_box
from maicc.types import UserError


class BatchStep(NamedTuple):
    """What a step gave. An environment that has ended keeps its last observation and pays 0."""

    observations: np.ndarray  # (B, N, O) float32
    action_mask: np.ndarray  # (B, N, A) bool
    rewards: np.ndarray  # (B,) float32, of the team
    individual_rewards: np.ndarray  # (B, N) float32
    terminated: np.ndarray  # (B,) bool
    truncated: np.ndarray  # (B,) bool

    @property
    def done(self) -> np.ndarray:  # (B,) bool
        return self.terminated | self.truncated


class BatchEnv:
    """Steps `envs` together. All share one roster and one pair of spaces.

    Action masks come from `infos[agent]["action_mask"]` or from a dict observation's
    `action_mask`; without either every action is legal.

    Raises:
        UserError: an environment whose agents, spaces, masks or rewards break the contract.
    """

    def __init__(
        self,
        envs: Sequence[ParallelEnv],
        team_reward: Literal["sum", "mean", "shared"] = "sum",
        max_steps: int | None = None,
    ) -> None:
        if not envs:
            raise UserError("BatchEnv needs at least one environment")
        self.envs = list(envs)
        self.team_reward = team_reward
        self.max_steps = max_steps
        self.agents = list(envs[0].possible_agents)
        self.shape, self.n_actions = _sizes(envs[0], self.agents[0])
        for env in self.envs:
            _check_spaces(env, self.agents, self.shape, self.n_actions)
        B, N = len(self.envs), len(self.agents)
        self._observations = np.zeros((B, N, int(np.prod(self.shape))), np.float32)
        self._mask = np.ones((B, N, self.n_actions), bool)
        self._terminated = np.ones(B, bool)
        self._truncated = np.zeros(B, bool)
        self._steps = 0

    def reset(self, seeds: Sequence[int]) -> BatchStep:
        self._terminated[:] = False
        self._truncated[:] = False
        self._steps = 0
        for b, (env, seed) in enumerate(zip(self.envs, seeds, strict=True)):
            observations, infos = env.reset(seed=int(seed))
            missing = set(self.agents) - set(observations)
            if missing:
                raise UserError(
                    f"{_name(env)} gave no observation for {sorted(missing)} at reset; every agent "
                    "takes part from the start"
                )
            self._read(b, observations, infos, ended=False)
        return self._result(np.zeros(self._mask.shape[:2], np.float32))

    def step(self, actions: np.ndarray) -> BatchStep:
        """`actions` (B, N) int; those of environments that have ended are not read."""
        rewards = np.zeros(self._mask.shape[:2], np.float32)
        self._steps += 1
        for b, env in enumerate(self.envs):
            if self._terminated[b] or self._truncated[b]:
                continue
            chosen = dict(zip(self.agents, actions[b].tolist(), strict=True))
            observations, paid, terminations, truncations, infos = env.step(
                {agent: chosen[agent] for agent in self.agents if agent in env.agents}
            )
            shared = next(iter(paid.values()), 0.0)
            for i, agent in enumerate(self.agents):
                rewards[b, i] = paid.get(agent, shared if self.team_reward == "shared" else 0.0)
            if not np.isfinite(rewards[b]).all():
                raise UserError(
                    f"{_name(env)} paid {dict(paid)} at step {self._steps}: rewards must be finite"
                )
            over = [terminations.get(a, True) or truncations.get(a, True) for a in self.agents]
            ended = not env.agents or all(over)
            self._terminated[b] = ended and all(terminations.get(a, True) for a in self.agents)
            limit = self._steps == self.max_steps
            self._truncated[b] = (ended or limit) and not self._terminated[b]
            self._read(b, observations, infos, ended=ended)
        return self._result(rewards)

    def close(self) -> None:
        for env in self.envs:
            env.close()

    def _result(self, rewards: np.ndarray) -> BatchStep:
        team = {"sum": rewards.sum(1), "mean": rewards.mean(1), "shared": rewards[:, 0]}
        return BatchStep(
            self._observations.copy(),
            self._mask.copy(),
            team[self.team_reward],
            rewards,
            self._terminated.copy(),
            self._truncated.copy(),
        )

    def _read(
        self, b: int, observations: Mapping[str, Any], infos: Mapping[str, Any], *, ended: bool
    ) -> None:
        for i, agent in enumerate(self.agents):
            if agent not in observations:
                continue  # left early: keeps its last observation
            seen = observations[agent]
            mask = infos.get(agent, {}).get("action_mask")
            if isinstance(seen, Mapping):
                mask = seen.get("action_mask", mask)
                seen = seen["observation"]
            seen = np.asarray(seen, np.float32)
            if seen.shape != self.shape:
                raise UserError(
                    f"{_name(self.envs[b])}: {agent} observed shape {seen.shape}, its space says "
                    f"{self.shape}; make observation_space and the observations agree"
                )
            if not np.isfinite(seen).all():
                raise UserError(
                    f"{_name(self.envs[b])}: {agent} observed {seen}: observations must be finite"
                )
            self._observations[b, i] = seen
            self._mask[b, i] = True
            if mask is not None:
                mask = np.asarray(mask)
                if mask.shape != (self.n_actions,):
                    raise UserError(
                        f"{_name(self.envs[b])}: action_mask of {agent} has shape {mask.shape}, "
                        f"expected ({self.n_actions},), one entry per action"
                    )
                if not mask.any() and not ended:
                    raise UserError(
                        f"{_name(self.envs[b])}: action_mask of {agent} allows no action; "
                        "leave at least one legal"
                    )
                self._mask[b, i] = mask.astype(bool)
        unknown = set(observations) - set(self.agents)
        if unknown:
            raise UserError(
                f"{_name(self.envs[b])} returned agents {sorted(unknown)} that are not in "
                f"possible_agents {self.agents}; the roster must be fixed"
            )


def _name(env: ParallelEnv) -> str:
    return type(env.unwrapped).__name__


def _sizes(env: ParallelEnv, agent: str) -> tuple[tuple[int, ...], int]:
    box, action = observation_box(env, agent), env.action_space(agent)
    if not isinstance(box, spaces.Box) or len(box.shape) != 1:
        raise UserError(
            f"{_name(env)}: {agent} has observation space {box}; supported are Box vectors, also "
            "in a dict under 'observation'; flatten others with a wrapper"
        )
    if not isinstance(action, spaces.Discrete) or action.start != 0:
        raise UserError(
            f"{_name(env)}: {agent} has action space {action}; supported is Discrete from 0; "
            "discretise others with a wrapper"
        )
    return box.shape, int(action.n)


def _check_spaces(
    env: ParallelEnv, agents: list[str], shape: tuple[int, ...], n_actions: int
) -> None:
    if list(env.possible_agents) != agents:
        raise UserError(
            f"{_name(env)} has agents {list(env.possible_agents)}, the others have {agents}; "
            "all tasks of a family share one roster"
        )
    for agent in agents:
        if _sizes(env, agent) != (shape, n_actions):
            raise UserError(
                f"{_name(env)}: {agent} has {_sizes(env, agent)} (observation shape, actions), "
                f"expected {(shape, n_actions)} like {agents[0]}; pad them in a wrapper"
            )
