"""What an environment's spaces say of sizes, and which spaces are supported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from maicc.types import UserError


def name_of(env: ParallelEnv) -> str:
    """For messages."""
    return type(env.unwrapped).__name__


def observation_box(env: ParallelEnv, agent: str) -> Any:
    """The space of the observation proper, also where it comes in a dict beside an action mask."""
    space = env.observation_space(agent)
    return space["observation"] if "observation" in getattr(space, "spaces", {}) else space


def agent_sizes(env: ParallelEnv, agent: str) -> tuple[int, int]:
    """Observation numbers and actions of an agent.

    Raises:
        UserError: its spaces are not supported.
    """
    box, action = observation_box(env, agent), env.action_space(agent)
    if not isinstance(box, spaces.Box) or len(box.shape) != 1:
        raise UserError(
            f"{name_of(env)}: {agent} has observation space {box}; supported are Box vectors, also "
            "in a dict under 'observation'; maicc.envs.map_observations(env, np.ravel) makes "
            "vectors of matrices, images need a wrapper that encodes them"
        )
    if not isinstance(action, spaces.Discrete) or action.start != 0:
        raise UserError(
            f"{name_of(env)}: {agent} has action space {action}; supported is Discrete from 0; "
            "discretise others with a wrapper"
        )
    return int(box.shape[0]), int(action.n)


def largest_sizes(env: ParallelEnv) -> tuple[int, int, int]:
    """Agents, and the most observation numbers and actions that any of them has."""
    each = [agent_sizes(env, agent) for agent in env.possible_agents]
    return len(each), max(o for o, _ in each), max(a for _, a in each)


def random_legal(action_mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Legal actions at random: (..., A) bool -> (...,)."""
    return (rng.random(action_mask.shape) * action_mask).argmax(-1)


def random_actions(
    env: ParallelEnv, seen: Mapping[str, Any], infos: Mapping[str, Any], rng: np.random.Generator
) -> dict[str, int]:
    """A legal action of each agent that takes part, by the mask in its observation or its infos."""
    actions = {}
    for agent in env.agents:
        mask = infos.get(agent, {}).get("action_mask")
        if isinstance(seen[agent], Mapping):
            mask = seen[agent].get("action_mask", mask)
        n = env.action_space(agent).n
        legal = np.arange(n) if mask is None else np.flatnonzero(mask)
        actions[agent] = int(legal[int(rng.random() * len(legal))])
    return actions
