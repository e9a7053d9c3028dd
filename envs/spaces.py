"""Sizes of an environment's spaces, checks of which spaces are supported, and random actions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from maicc.types import UserError

MOST_ACTIONS = 2**15  # datasets keep actions in 16 bits


def name_of(env: ParallelEnv) -> str:
    """Name of the environment's class, for messages."""
    return type(env.unwrapped).__name__


def roster_of(env: ParallelEnv) -> list[str]:
    """Names of all agents, in the order in which they are kept.

    Raises:
        UserError: there are none before reset, one is there twice, or they have no order.
    """
    agents: Any = getattr(env, "possible_agents", None)
    ordered = isinstance(agents, Iterable) and not isinstance(agents, str | set | frozenset)
    roster = list(agents) if ordered else []
    if not roster or len(set(roster)) < len(roster):
        raise UserError(
            f"{name_of(env)}: possible_agents is {agents!r}; expected a list of all agents, which "
            "is set before the first reset and is the same in every process"
        )
    return roster


def observation_box(env: ParallelEnv, agent: str) -> Any:
    """Space of the observation proper, also where it lies in a dict beside an action mask."""
    space = env.observation_space(agent)
    return space["observation"] if "observation" in getattr(space, "spaces", {}) else space


def agent_sizes(env: ParallelEnv, agent: str) -> tuple[int, int]:
    """Length of an agent's observation, and number of its actions.

    Raises:
        UserError: its spaces are not supported.
    """
    action: Any
    try:
        box, action = observation_box(env, agent), env.action_space(agent)
    except (AttributeError, KeyError, NotImplementedError) as error:
        raise UserError(
            f"{name_of(env)}: no space of {agent} ({type(error).__name__}: {error}); give "
            "observation_space(agent) and action_space(agent)"
        ) from None
    if not isinstance(box, spaces.Box) or len(box.shape) != 1 or not box.shape[0]:
        matrix = isinstance(box, spaces.Box) and len(box.shape) > 1
        fix = "; maicc.envs.map_observations(env, np.ravel) makes vectors of matrices" * matrix
        raise UserError(
            f"{name_of(env)}: {agent} has observation space {box}; supported are Box vectors of "
            f"one number or more, also in a dict under 'observation'{fix}; others need a wrapper "
            "that encodes them"
        )
    if not isinstance(action, spaces.Discrete) or action.start != 0:
        raise UserError(
            f"{name_of(env)}: {agent} has action space {action}; supported is Discrete from 0; "
            "discretise others with a wrapper"
        )
    if int(action.n) > MOST_ACTIONS:
        raise UserError(
            f"{name_of(env)}: {agent} has {action.n} actions, at most {MOST_ACTIONS} are supported"
        )
    return int(box.shape[0]), int(action.n)


def largest_sizes(env: ParallelEnv) -> tuple[int, int, int]:
    """Number of agents, length of the longest observation and largest number of actions."""
    sizes = [agent_sizes(env, agent) for agent in roster_of(env)]
    return len(sizes), max(o for o, _ in sizes), max(a for _, a in sizes)


def random_legal(action_mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws legal actions: (..., A) bool -> (...,)."""
    return (rng.random(action_mask.shape) * action_mask).argmax(-1)


def random_actions(
    env: ParallelEnv,
    observations: Mapping[str, Any],
    infos: Mapping[str, Any],
    rng: np.random.Generator,
) -> dict[str, int]:
    """Draws a legal action for each agent that takes part.

    Masks are read from the observations if these are dicts that have one, else from the infos.
    """
    actions = {}
    for agent in env.agents:
        mask = infos.get(agent, {}).get("action_mask")
        if isinstance(observations[agent], Mapping):
            mask = observations[agent].get("action_mask", mask)
        n = env.action_space(agent).n
        legal = np.arange(n) if mask is None else np.flatnonzero(mask)
        actions[agent] = int(legal[int(rng.random() * len(legal))])
    return actions
