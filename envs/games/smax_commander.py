"""Battles on SMAX with a hidden commander: the enemy with whom all enemies fall.

Who commands is part of the task and is not shown. The sides are unequal, so that a plain fight
loses. A team has to find out in one episode what wins the next ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from maicc.envs.batch import BatchStep
from maicc.envs.games.smax import Smax, SmaxBatch
from maicc.envs.games.smax_drawing import action_names, draw
from maicc.envs.games.smax_policies import FEATURES, OWN, attack_nearest, hunt, hunt_in_turn
from maicc.envs.tasks import TaskFamily
from maicc.files import read_json
from maicc.types import ObsLayout, Task, UserError

TASKS = Path(__file__).with_name("smax_commander.json")  # `smax_commander_tasks` writes it
SIDES = (5, 7)  # most allies, most enemies
PARAMETERS = {"allies", "enemies", "seed", "commander"}
NUMBERS = 2.0 * (np.arange(SIDES[1])[:, None] >> np.arange(4) & 1) - 1  # (M, 4), an enemy's bits
_ENEMIES = FEATURES * (SIDES[0] - 1)  # where the enemies begin
_UNIT = FEATURES + NUMBERS.shape[1]  # of an enemy
LAYOUT = ObsLayout(
    own=(_ENEMIES + _UNIT * SIDES[1], OWN),
    allies=(0, SIDES[0] - 1, FEATURES),
    enemies=(_ENEMIES, SIDES[1], _UNIT),
    attack=5,
)


class CommanderBatch(SmaxBatch):
    """Games in lock step in which all enemies fall with their commander.

    The reward is that of SMAX, and whoever falls with the commander counts as destroyed. An agent
    also sees the number of each enemy in sight, as four bits of +1 or -1.

    Args:
        tasks: One per game, with the parameters `allies`, `enemies`, `seed`, which draws units and
            spawns, and `commander`, the number of an enemy.

    Raises:
        UserError: there is no task, or its parameters are wrong.
    """

    sides, layout, max_steps = SIDES, LAYOUT, 30

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__(tasks)
        commander = np.array([[p["commander"]] for p in self.tasks])  # (B, 1)
        self.commands = np.arange(sum(SIDES)) == SIDES[0] + commander

    @staticmethod
    def check(parameters: Mapping[str, Any]) -> None:
        """Checks that a task names the sizes of both sides, a seed, and one of its enemies.

        Raises:
            UserError: a parameter is missing, unknown or out of range.
        """
        p, (allies, enemies) = parameters, SIDES
        if (
            set(p) != PARAMETERS
            or not (1 <= p["allies"] <= allies and 1 <= p["enemies"] <= enemies)
            or not 0 <= p["commander"] < p["enemies"]
        ):
            raise UserError(
                f"battle {dict(p)}: expected {', '.join(sorted(PARAMETERS))}, with 1 to {allies} "
                f"allies, 1 to {enemies} enemies, and a commander from 0 to enemies - 1"
            )

    def _result(self, rewards: np.ndarray) -> BatchStep:
        shown = super()._result(rewards)
        allies, enemies, own = np.split(shown.observations, [_ENEMIES, -OWN], axis=-1)
        enemies = enemies.reshape(*enemies.shape[:2], SIDES[1], FEATURES)
        numbers = NUMBERS * enemies.any(-1, keepdims=True)  # (B, A, M, 4)
        enemies = np.concatenate([enemies, numbers], -1, dtype=np.float32)
        seen = np.concatenate([allies, enemies.reshape(*own.shape[:2], -1), own], -1)
        return shown._replace(observations=seen)


class Commander(Smax):
    """One game with a hidden commander as a PettingZoo environment, see `CommanderBatch`."""

    metadata = {**Smax.metadata, "name": "smax_commander"}  # noqa: RUF012
    batch = CommanderBatch


def reveal(parameters: Mapping[str, Any]) -> Sequence[float]:
    """Tells the hidden part of a task: the commander's number, as the bits that agents see."""
    return NUMBERS[parameters["commander"]].tolist()


def tasks(*, held_out: bool) -> dict[str, dict[str, Any]]:
    """Parameters of the listed tasks by name; a composition is held out with all its commanders."""
    return {
        f"{c['allies']}v{c['enemies']}_{c['seed']}_{commander}": {
            **{key: c[key] for key in ("allies", "enemies", "seed")},
            "commander": commander,
        }
        for c in read_json(TASKS)
        if c["held_out"] == held_out
        for commander in c["commanders"]
    }


def _distance(a: Mapping[str, Any], b: Mapping[str, Any]) -> int:
    """Difference in the sizes of both sides."""
    return abs(a["allies"] - b["allies"]) + abs(a["enemies"] - b["enemies"])


smax_commander = TaskFamily(
    name="smax_commander",
    make=Commander,
    training=tasks(held_out=False),
    held_out=tasks(held_out=True),
    max_steps=CommanderBatch.max_steps,
    return_bounds=(0.0, 2.0),
    expert=hunt,
    behaviours=[
        partial(attack_nearest, layout=LAYOUT),
        partial(hunt_in_turn, layout=LAYOUT),  # what the fall of each enemy brings
        partial(hunt_in_turn, layout=LAYOUT, backwards=True),
    ],
    make_batch=CommanderBatch,
    sizes=(SIDES[0], sum(LAYOUT.own), LAYOUT.attack + SIDES[1]),
    reveal=reveal,
    distance=_distance,
    layout=LAYOUT,
    draw=partial(draw, layout=LAYOUT),
    action_names=action_names(LAYOUT),
    description="battles of 3v4 to 5v7 that are won when the hidden commander falls",
)
