"""Other kinds of environments, as PettingZoo's ParallelEnv."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils import BaseParallelWrapper
from pettingzoo.utils.conversions import aec_to_parallel

from maicc.types import UserError


def as_parallel(env: Any) -> ParallelEnv:
    """`env` itself, an AEC environment converted, or a multi-agent Gymnasium one wrapped.

    Raises:
        UserError: it is none of these.
    """
    if isinstance(env, ParallelEnv):
        return env
    if isinstance(env, AECEnv):
        if not env.metadata.get("is_parallelizable", False):
            raise UserError(
                f"{type(env.unwrapped).__name__} says it is not parallelizable: its agents act one "
                "after the other within a step, which is not supported"
            )
        return aec_to_parallel(env)
    if isinstance(getattr(env, "action_space", None), spaces.Tuple):
        return TupleEnv(env)
    raise UserError(
        f"{type(env).__name__} is no PettingZoo ParallelEnv or AECEnv, nor a Gymnasium environment "
        "with a Tuple of action spaces; `make` must return one of these"
    )


class _Mapped(BaseParallelWrapper):
    def __init__(self, env: ParallelEnv, change: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__(env)
        self._change, self._spaces = change, {}
        for agent in env.possible_agents:
            box = env.observation_space(agent)
            low, high = (np.asarray(change(bound), np.float32) for bound in (box.low, box.high))
            self._spaces[agent] = spaces.Box(low, high, dtype=np.float32)

    def observation_space(self, agent: str) -> spaces.Box:
        return self._spaces[agent]

    def _changed(self, seen: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {a: np.asarray(self._change(o), np.float32) for a, o in seen.items()}

    def reset(self, seed: int | None = None, options: dict | None = None):
        seen, infos = self.env.reset(seed=seed, options=options)
        return self._changed(seen), infos

    def step(self, actions: dict[str, int]):
        seen, *rest = self.env.step(actions)
        return self._changed(seen), *rest


def map_observations(env: Any, change: Callable[[np.ndarray], np.ndarray]) -> ParallelEnv:
    """`env` with every observation changed: `np.ravel` makes a vector of a matrix, for example.

    Args:
        env: Whatever `make` of a TaskFamily may return; its observations are Boxes.
        change: Picks, leaves out or arranges numbers; it is applied to the bounds of the space too.
    """
    return _Mapped(as_parallel(env), change)


class TupleEnv(ParallelEnv):
    """A Gymnasium environment with a Tuple of spaces, one for each agent, as in `lbforaging`.

    Observations and rewards are sequences in the order of the agents; the end is for all, once
    every agent has come to its own. Infos are not read: masks belong into dict observations.
    """

    metadata = {"name": "tuple_env", "render_modes": []}  # noqa: RUF012

    def __init__(self, env: Any) -> None:
        self.env = env
        self.possible_agents = [f"agent_{i}" for i in range(len(env.action_space))]
        self.agents: list[str] = []
        self.render_mode = getattr(env, "render_mode", None)
        self._observation_spaces = self._each(env.observation_space)
        self._action_spaces = self._each(env.action_space)

    def _each(self, values: Any) -> dict[str, Any]:
        return dict(zip(self.possible_agents, values, strict=True))

    def observation_space(self, agent: str) -> spaces.Space:
        return self._observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space:
        return self._action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict | None = None):
        observations, _ = self.env.reset(seed=seed, options=options)
        self.agents = list(self.possible_agents)
        return self._each(observations), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, int]):
        chosen = tuple(actions[agent] for agent in self.possible_agents)
        observations, rewards, terminated, truncated, _ = self.env.step(chosen)
        over = bool(np.all(np.logical_or(terminated, truncated)))
        ended = over and not bool(np.any(truncated))
        result = (
            self._each(observations),
            {agent: float(r) for agent, r in self._each(rewards).items()},
            dict.fromkeys(self.agents, ended),
            dict.fromkeys(self.agents, over and not ended),
            {agent: {} for agent in self.agents},
        )
        if over:
            self.agents = []
        return result

    @property
    def unwrapped(self) -> Any:
        """The Gymnasium environment itself."""
        return self.env.unwrapped

    def close(self) -> None:
        self.env.close()
