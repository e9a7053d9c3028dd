"""Adapters that make other kinds of environments PettingZoo ParallelEnvs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils import BaseParallelWrapper
from pettingzoo.utils.conversions import aec_to_parallel

from maicc.envs.spaces import name_of, roster_of
from maicc.types import UserError

# Results of `ParallelEnv.reset` and `ParallelEnv.step`, each part by agent.
ResetResult = tuple[dict[str, Any], dict[str, dict[str, Any]]]  # observations, infos
StepResult = tuple[  # observations, rewards, terminations, truncations, infos
    dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]
]

RESET = ("observations", "infos")
STEP = ("observations", "rewards", "terminations", "truncations", "infos")


def reset_env(env: Any, **arguments: Any) -> Any:
    """Calls `env.reset`.

    Raises:
        UserError: it does not take the arguments.
    """
    try:
        return env.reset(**arguments)
    except TypeError as error:
        if "reset() got an unexpected keyword argument" not in str(error):
            raise
        raise UserError(
            f"{name_of(env)}: {error}; expected reset(seed=None, options=None), "
            "which seeds all that is random"
        ) from None


def parts_of(env: Any, call: str, result: Any, names: Sequence[str]) -> Any:
    """Takes apart what `call` has returned: a dict by agent for each of the names.

    Raises:
        UserError: it has returned something else.
    """
    if not isinstance(result, tuple) or len(result) != len(names):
        came = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
        raise UserError(
            f"{name_of(env)}: {call} returned {came}, expected {len(names)}: {', '.join(names)}"
        )
    for name, part in zip(names, result, strict=True):
        if not isinstance(part, Mapping):
            raise UserError(
                f"{name_of(env)}: {call} returned {name} as "
                f"{type(part).__name__}, expected a dict by agent"
            )
    return result


def as_parallel(env: Any) -> ParallelEnv:
    """Converts `env` to a ParallelEnv.

    A ParallelEnv is returned as it is, an AEC environment is converted, and a multi-agent Gymnasium
    environment is wrapped.

    Raises:
        UserError: it is none of these.
    """
    if isinstance(env, ParallelEnv):
        return env
    if isinstance(env, AECEnv):
        if not (getattr(env, "metadata", None) or {}).get("is_parallelizable", False):
            raise UserError(
                f"{name_of(env)} does not say in its metadata that it "
                "is_parallelizable: its agents act one after the other within a step, which is not "
                "supported"
            )
        return aec_to_parallel(env)
    if isinstance(getattr(env, "action_space", None), spaces.Tuple):
        return TupleEnv(env)
    raise UserError(
        f"{type(env).__name__} is no PettingZoo ParallelEnv or AECEnv, nor a Gymnasium environment "
        "with a Tuple of action spaces; `make` must return one of these"
    )


class _Mapped(BaseParallelWrapper):
    """Wrapper that applies `change` to every observation.

    Of a dict observation it changes what is under `observation`.
    """

    def __init__(self, env: ParallelEnv, change: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__(env)
        self._change = change
        self._spaces: dict[str, spaces.Space] = {}
        for agent in roster_of(env):
            whole = env.observation_space(agent)
            parts = dict(whole.spaces) if isinstance(whole, spaces.Dict) else {}
            box = parts.get("observation", whole)
            if not isinstance(box, spaces.Box):
                raise UserError(
                    f"{name_of(env)}: {agent} has observation space {whole}, and "
                    "map_observations changes Boxes only"
                )
            with np.errstate(all="ignore"):
                shown = change(np.where(np.isfinite(box.low), box.low, 0).astype(box.dtype))
            mapped = spaces.Box(-np.inf, np.inf, np.shape(shown), np.float32)
            self._spaces[agent] = spaces.Dict({**parts, "observation": mapped}) if parts else mapped

    def observation_space(self, agent: str) -> spaces.Space:
        return self._spaces[agent]

    def _changed(self, observations: Mapping[str, Any]) -> dict[str, Any]:
        return {agent: self._changed_one(seen) for agent, seen in observations.items()}

    def _changed_one(self, seen: Any) -> Any:
        if isinstance(seen, Mapping):
            return {**seen, "observation": self._changed_one(seen["observation"])}
        return np.asarray(self._change(seen), np.float32)

    def reset(self, seed: int | None = None, options: dict | None = None) -> ResetResult:
        result = reset_env(self.env, seed=seed, options=options)
        observations, infos = parts_of(self.env, "reset", result, RESET)
        return self._changed(observations), infos

    def step(self, actions: dict[str, int]) -> StepResult:
        observations, *others = parts_of(self.env, "step", self.env.step(actions), STEP)
        return self._changed(observations), *others


def map_observations(env: Any, change: Callable[[np.ndarray], np.ndarray]) -> ParallelEnv:
    """Wraps `env` so that `change` is applied to every observation.

    For example, `np.ravel` makes a vector of a matrix.

    Args:
        env: Whatever `make` of a TaskFamily may return; its observations are Boxes, or dicts with
            one under `observation`.
        change: Picks, arranges or scales numbers. What it makes has no bounds in its space.
    """
    return _Mapped(as_parallel(env), change)


class TupleEnv(ParallelEnv):
    """Wrapper of a Gymnasium environment with a Tuple of spaces, one for each agent.

    `lbforaging` is an example. Observations and rewards are sequences in the order of the agents.
    The episode ends for all agents at once, when every agent has come to its end. Infos are not
    read: masks belong into dict observations.
    """

    metadata = {"name": "tuple_env", "render_modes": []}  # noqa: RUF012

    def __init__(self, env: Any) -> None:
        self.env = env
        self.possible_agents = [f"agent_{i}" for i in range(len(env.action_space))]
        self.agents: list[str] = []
        self.render_mode = getattr(env, "render_mode", None)
        self._observation_spaces = self._by_agent(env.observation_space)
        self._action_spaces = self._by_agent(env.action_space)

    def _by_agent(self, values: Any) -> dict[str, Any]:
        try:
            one_each = len(values) == len(self.possible_agents)
        except TypeError:  # it has no length
            one_each = False
        if not one_each:
            raise UserError(
                f"{name_of(self)} has actions for {len(self.possible_agents)} "
                f"agents, and gave {values!r:.200}; expected one value for each"
            )
        return dict(zip(self.possible_agents, values, strict=True))

    def observation_space(self, agent: str) -> spaces.Space:
        return self._observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space:
        return self._action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict | None = None) -> ResetResult:
        result = reset_env(self.env, seed=seed, options=options)
        if not isinstance(result, tuple) or len(result) != 2:
            raise UserError(f"{name_of(self)}: reset must return observations and infos")
        observations, _ = result
        self.agents = list(self.possible_agents)
        return self._by_agent(observations), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, int]) -> StepResult:
        joint_action = tuple(actions[agent] for agent in self.possible_agents)
        result = self.env.step(joint_action)
        if not isinstance(result, tuple) or len(result) != 5:
            raise UserError(
                f"{name_of(self)}: step must return observations, rewards, "
                "terminated, truncated and infos"
            )
        observations, rewards, terminated, truncated, _ = result
        for name, ends in (("terminated", terminated), ("truncated", truncated)):
            if np.shape(ends) not in ((), (len(joint_action),)) or not np.isin(ends, (0, 1)).all():
                raise UserError(f"{name_of(self)}: {name} is {ends!r}, expected True or False")
        over = bool(np.all(np.logical_or(terminated, truncated)))
        ended = over and not bool(np.any(truncated))
        agents = self.agents
        if over:
            self.agents = []
        return (
            self._by_agent(observations),
            self._by_agent(rewards),
            dict.fromkeys(agents, ended),
            dict.fromkeys(agents, over and not ended),
            {agent: {} for agent in agents},
        )

    @property
    def unwrapped(self) -> Any:
        """The Gymnasium environment itself."""
        return self.env.unwrapped

    def close(self) -> None:
        self.env.close()
