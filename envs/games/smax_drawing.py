"""Drawings of SMAX battles, of what the allies see."""

from __future__ import annotations

import numpy as np

from maicc.envs.drawing import Drawing, Shape
from maicc.envs.games.smax_policies import MAP
from maicc.types import ObsLayout

SIGHT = np.array([9.0, 10.0, 10.0, 9.0, 8.0, 9.0])  # of each unit type, in SMAX
LETTERS = "mMsZzh"  # marine, marauder, stalker, zealot, zergling, hydralisk
ENEMY = "#dc2626"
MOVES = ("north", "east", "south", "west", "stop")
_UNIT = 2.0  # size of a unit in full health
_TYPES, _OWN_TYPES = slice(7, 13), slice(4, 10)  # where a unit's numbers tell its type


def action_names(layout: ObsLayout) -> list[str]:
    """Names of the actions of a battle."""
    return [*MOVES, *(f"attack {j}" for j in range(layout.enemies[1]))]


def draw(observations: np.ndarray, present: np.ndarray, layout: ObsLayout) -> Drawing:
    """Draws the allies and the enemies that one of them sees; the smaller, the less health."""
    shapes, enemies = [], {}
    start, count, size = layout.enemies
    for i in np.flatnonzero(present).tolist():
        own = observations[i, layout.own[0] : sum(layout.own)]
        kind, place = int(own[_OWN_TYPES].argmax()), own[1:3] * MAP
        shapes.append(_unit(place, own[0], kind, agent=i))
        seen = observations[i, start : start + count * size].reshape(count, size)
        for j in np.flatnonzero(seen[:, 0] > 0).tolist():
            its_kind = int(seen[j, _TYPES].argmax())
            enemies[j] = _unit(
                place + seen[j, 1:3] * SIGHT[kind], seen[j, 0], its_kind, colour=ENEMY, number=j
            )
    return Drawing(MAP, MAP, [*(enemies[j] for j in sorted(enemies)), *shapes])


def _unit(
    place: np.ndarray,
    health: float,
    kind: int,
    colour: str = "",
    agent: int | None = None,
    number: int | None = None,
) -> Shape:
    """Draws one unit, with the letter of its type, and its number if it is an enemy."""
    label = LETTERS[kind] + ("" if number is None else str(number))
    size = _UNIT * max(float(health), 0.1) ** 0.5
    return Shape("circle", float(place[0]), MAP - float(place[1]), size, colour, label, agent)
