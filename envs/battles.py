"""What battles on SMAX and on StarCraft II have in common: their tasks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from maicc.types import UserError

MOST = 12  # units of a side
MAX_STEPS = 100
TRAINING = ((5, 5), (7, 7), (10, 11))
PARAMETERS = {"race", "allies", "enemies", "seed", "vary"}

Tasks = dict[str, dict[str, Any]]


def check_parameters(parameters: Mapping[str, Any], races: Collection[str]) -> None:
    """Raises UserError unless a task names a race, both sides, a seed, and whether it varies."""
    if set(parameters) != PARAMETERS:
        raise UserError(f"battle {dict(parameters)}: expected {', '.join(sorted(PARAMETERS))}")
    sides = (parameters["allies"], parameters["enemies"])
    if parameters["race"] not in races or not all(1 <= n <= MOST for n in sides):
        raise UserError(
            f"battle {dict(parameters)}: race is one of {', '.join(races)}, and allies and enemies "
            f"are 1 to {MOST}"
        )


def battle_tasks(races: Sequence[str], *, vary: bool) -> tuple[Tasks, Tasks]:
    """Parameters of the training tasks and of the held-out ones, by name.

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
    held_out = {
        f"{race}_{n}v{n}_{seed}": parameters(race, n, n, seed)
        for race in races
        for seed in ((1000,) if vary else (1000, 1001))
        for n in range(3, MOST + 1)
        if not vary or (n, n) not in TRAINING  # with units drawn anew it would be the same task
    }
    return training, held_out
