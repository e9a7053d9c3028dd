"""Rules of the contract that environments keep, one function each. All raise UserError."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pettingzoo import ParallelEnv

from maicc.envs.spaces import name_of
from maicc.types import UserError


def require_every_agent(
    env: ParallelEnv, roster: Sequence[str], observations: Collection[str]
) -> None:
    missing = set(roster) - set(observations)
    if missing:
        raise UserError(
            f"{name_of(env)} gave no observation for {sorted(missing)} at reset; every "
            "agent takes part from the start"
        )


def require_known_agents(
    env: ParallelEnv, roster: Sequence[str], parts: Sequence[Mapping[str, Any]]
) -> None:
    unknown = set().union(*parts) - set(roster)
    if unknown:
        raise UserError(
            f"{name_of(env)} returned agents {sorted(map(str, unknown))} that are not in "
            f"possible_agents {roster}; the roster must be fixed"
        )


def require_agents(env: ParallelEnv, before: Sequence[str], *, at_reset: bool = False) -> list[str]:
    """Returns the agents that are there, which are some of those that were there before."""
    agents: Any = getattr(env, "agents", None)
    listed = isinstance(agents, Collection) and not isinstance(agents, str)
    if not listed or set(agents) - set(before) or (at_reset and set(before) - set(agents)):
        when = "after reset" if at_reset else "after a step"
        rule = "every agent takes part from the start" if at_reset else "agents may only leave"
        raise UserError(
            f"{name_of(env)}: `agents` is {agents!r} {when}, and was {list(before)} before: {rule}"
        )
    return list(agents)


def require_named(
    env: ParallelEnv,
    call: str,
    agents: Sequence[str],
    parts: Iterable[tuple[str, Mapping[str, Any]]],
) -> None:
    named = set(agents)
    for name, part in parts:
        if missing := named - part.keys():
            raise UserError(
                f"{name_of(env)}: {name} of agents {sorted(map(str, missing))} are missing at "
                f"{call}, which has those of {list(part)}; name every agent that took part"
            )
        if name == "infos" and not all(isinstance(part[agent], Mapping) for agent in agents):
            raise UserError(f"{name_of(env)}: infos at {call} are {part}, expected a dict by agent")


def require_told_ends(env: ParallelEnv, call: str, agents: Sequence[str]) -> None:
    if agents:
        raise UserError(
            f"{name_of(env)}: {agents} are gone from `agents` after {call}, and neither "
            "terminations nor truncations say so; set one of them to True"
        )


def truth(env: ParallelEnv, what: str, agent: str, value: Any) -> bool:
    """Reads True or False, also as a number or as one of numpy's."""
    if not isinstance(value, bool | np.bool_) and number(env, what, agent, value) not in (0, 1):
        raise UserError(f"{name_of(env)}: {what} of {agent} is {value!r}, expected True or False")
    return bool(value)


def number(env: ParallelEnv, what: str, agent: str, value: Any) -> Any:
    """Reads one number, also as one of numpy's."""
    if isinstance(value, float | int):
        return value
    array = numbers(env, what, agent, value)
    if array.ndim:
        raise UserError(f"{name_of(env)}: {what} of {agent} is {value!r}, expected one number")
    return array


def numbers(env: ParallelEnv, what: str, agent: str, value: Any) -> np.ndarray:
    """Makes an array of numbers, of any shape."""
    try:
        array = np.asarray(value)
    except ValueError:  # of rows that are not equally long
        array = np.empty(0, object)
    if array.dtype.kind not in "biuf":
        raise UserError(f"{name_of(env)}: {what} of {agent} is {value!r:.200}, expected numbers")
    return array


def require_shape(env: ParallelEnv, agent: str, observation: np.ndarray, size: int) -> None:
    if observation.shape != (size,):
        raise UserError(
            f"{name_of(env)}: {agent} observed shape {observation.shape}, its space says "
            f"{(size,)}; make observation_space and the observations agree"
        )


def require_finite_observation(env: ParallelEnv, agent: str, observation: np.ndarray) -> None:
    if not np.isfinite(observation).all():
        raise UserError(
            f"{name_of(env)}: {agent} observed {observation}: observations must be finite"
        )


def require_mask_shape(env: ParallelEnv, agent: str, mask: np.ndarray, n_actions: int) -> None:
    if mask.shape != (n_actions,):
        raise UserError(
            f"{name_of(env)}: action_mask of {agent} has shape {mask.shape}, "
            f"expected ({n_actions},), one entry per action"
        )


def require_mask(env: ParallelEnv, agent: str, mask: np.ndarray) -> None:
    if not (mask.astype(bool) == mask).all():
        raise UserError(f"{name_of(env)}: action_mask of {agent} is {mask}, expected 0 or 1 each")
    if not mask.any():
        raise UserError(
            f"{name_of(env)}: action_mask of {agent} allows no action; leave at least one legal"
        )
