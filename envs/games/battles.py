"""Agents, spaces, tasks and families that battles on SMAX and on StarCraft II have in common."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from maicc.envs.tasks import Expert, TaskFamily
from maicc.types import ObsLayout, UserError

MOST = 12  # units of a side
MAX_STEPS = 100
TRAINING = ((5, 5), (7, 7), (10, 11))
PARAMETERS = {"race", "allies", "enemies", "seed", "vary"}

Tasks = dict[str, dict[str, Any]]


def check_parameters(parameters: Mapping[str, Any], races: Collection[str]) -> None:
    """Checks that a task names a race, the sizes of both sides, a seed, and whether it varies.

    Raises:
        UserError: a parameter is missing, unknown or out of range.
    """
    if set(parameters) != PARAMETERS:
        raise UserError(f"battle {dict(parameters)}: expected {', '.join(sorted(PARAMETERS))}")
    sides = (parameters["allies"], parameters["enemies"])
    if parameters["race"] not in races or not all(1 <= n <= MOST for n in sides):
        raise UserError(
            f"battle {dict(parameters)}: race is one of {', '.join(races)}, and allies and enemies "
            f"are 1 to {MOST}"
        )


class Battle(ParallelEnv):
    """Base of battles as PettingZoo environments: agents `ally_0`, ... and their spaces.

    Args:
        parameters: Parameters of the task, which have been checked.
        layout: Where an observation holds which unit.
        observation_size: Length of an observation.
    """

    def __init__(
        self, parameters: Mapping[str, Any], layout: ObsLayout, observation_size: int
    ) -> None:
        self.parameters, self.render_mode = parameters, None
        self.possible_agents = [f"ally_{i}" for i in range(parameters["allies"])]
        self.agents: list[str] = []
        box = spaces.Box(-1.0, 1.0, (observation_size,), np.float32)
        n_actions = layout.attack + layout.enemies[1]
        self._observation_spaces = dict.fromkeys(self.possible_agents, box)
        self._action_spaces: dict[str, spaces.Discrete] = {
            agent: spaces.Discrete(n_actions) for agent in self.possible_agents
        }
        self._rng = np.random.default_rng()

    def observation_space(self, agent: str) -> spaces.Box:
        return self._observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Discrete:
        return self._action_spaces[agent]

    def episode_seed(self, seed: int | None) -> int:
        """Seed of an episode. If None is given, it follows from the last seed that was given."""
        if seed is None:
            return int(self._rng.integers(2**31))
        self._rng = np.random.default_rng(seed)
        return seed


def battle_families(
    prefix: str,
    where: str,
    races: Sequence[str],
    make: Callable[..., ParallelEnv],
    layout: ObsLayout,
    observation_size: int,
    return_max: float,
    expert: Expert,
    **options: Any,
) -> dict[str, TaskFamily]:
    """Makes a family for each race, and one of all races.

    Tasks of the first fix units and spawns; in those of the last they are drawn anew in each
    episode.

    Args:
        prefix: Start of the families' names.
        where: The game, for descriptions.
        return_max: Highest return; the lowest is 0.
        options: Further arguments of every family.

    Returns:
        The families by race, and `all`.
    """
    kinds = {
        **{
            r: ([r], False, f"{r} teams of 3 to 12, fixed units and spawns per task") for r in races
        },
        "all": (races, True, "all races, units and spawns drawn anew in each episode"),
    }
    families = {}
    for kind, (family_races, vary, summary) in kinds.items():
        training, held_out = battle_tasks(family_races, vary=vary)
        families[kind] = TaskFamily(
            name=f"{prefix}_{kind}",
            make=make,
            training=training,
            held_out=held_out,
            max_steps=MAX_STEPS,
            return_bounds=(0.0, return_max),
            expert=expert,
            sizes=(MOST, observation_size, layout.attack + MOST),
            distance=_distance,
            layout=layout,
            configuration="battles_all" if vary else "battles",
            description=f"{where}: {summary}",
            **options,
        )
    return families


def _distance(a: Mapping[str, Any], b: Mapping[str, Any]) -> int:
    """Difference in team size; another race is further away than any size."""
    return abs(a["allies"] - b["allies"]) + MOST * (a["race"] != b["race"])


def battle_tasks(races: Sequence[str], *, vary: bool) -> tuple[Tasks, Tasks]:
    """Makes the parameters of the training tasks and of the held-out ones, by name.

    Args:
        vary: Units and spawns are drawn anew in each episode (SMACv2's setting), instead of once
            per task (SMACv1's).
    """

    def parameters(race: str, allies: int, enemies: int, seed: int) -> dict[str, Any]:
        return {"race": race, "allies": allies, "enemies": enemies, "seed": seed, "vary": vary}

    training = {
        f"{race}_{n}v{m}": parameters(race, n, m, seed)
        for race in races
        for seed, (n, m) in enumerate(TRAINING)
    }
    drawn = [
        (race, n)
        for race in races
        for _ in range(1 if vary else 2)
        for n in range(3, MOST + 1)
        if not vary or (n, n) not in TRAINING  # with units drawn anew it would be the same task
    ]
    held_out = {  # each with a seed of its own: the same one draws the same units, only fewer
        f"{race}_{n}v{n}_{seed}": parameters(race, n, n, seed)
        for seed, (race, n) in enumerate(drawn, 1000)
    }
    return training, held_out
