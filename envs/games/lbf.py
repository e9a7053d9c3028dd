"""Level-based foraging on the `lbforaging` package: METHOD.md, section 9.

Three agents of level 1, one food of level 3, sight 1, fixed starts. An agent is paid 1/3 the first
time it stands beside the food, and 1/3 again when all three load together, which ends the episode.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from maicc.envs.adapters import ResetResult
from maicc.envs.drawing import Drawing, cell
from maicc.envs.games.foraging import ACTIONS, FOOD, Board, Game
from maicc.envs.games.lbf_policies import Explorer, expert
from maicc.envs.games.ways import Cell, distance
from maicc.envs.tasks import TaskFamily

N_AGENTS = 3


class _Game(Game):
    """The upstream rules with one food at a chosen cell, fixed starts and our observation."""

    def __init__(self, size: int, food: Cell, max_steps: int) -> None:
        self.food = food
        self.starts = [(size - 1, 0), (size - 1, size - 1), (0, (size - 1) // 2)]
        super().__init__(
            players=N_AGENTS,
            min_player_level=1,
            max_player_level=1,
            min_food_level=N_AGENTS,
            max_food_level=N_AGENTS,
            field_size=(size, size),
            max_num_food=1,
            sight=1,
            max_episode_steps=max_steps,
            force_coop=True,
        )

    def spawn_players(self, min_player_levels: Any, max_player_levels: Any) -> None:
        for player, start in zip(self.players, self.starts, strict=True):
            player.reward = 0
            player.setup(start, 1, self.field_size)

    def spawn_food(self, max_num_food: int, min_levels: Any, max_levels: Any) -> None:
        self.field[self.food] = N_AGENTS
        self._food_spawned = self.field.sum()

    def _make_gym_obs(self) -> list[np.ndarray]:
        positions = [player.position for player in self.players]
        food = [self.food] if self.field[self.food] else []
        seen = []
        for i, position in enumerate(positions):
            others = positions[:i] + positions[i + 1 :]
            visible_food = _in_sight(position, food) or [(-1, -1)]
            visible = _in_sight(position, others)
            visible += [(-1, -1)] * (len(others) - len(visible))
            seen.append([*visible_food, position, *visible])
        return list(np.array(seen, np.float32).reshape(len(seen), -1))


def _in_sight(position: Cell, things: list[Cell]) -> list[Cell]:
    """Relative row and column, plus 1, of the things at most one row and one column away."""
    relative = [(row - position[0] + 1, col - position[1] + 1) for row, col in things]
    return [cell for cell in relative if 0 <= cell[0] <= 2 and 0 <= cell[1] <= 2]


class Foraging(Board):
    """A PettingZoo environment with one food at `food` (row, column), which must be interior.

    An observation has 8 numbers: the food's row and column relative to the agent plus 1, or -1 -1
    out of sight; the agent's own row and column; then the two others like the food, those in sight
    first. The team reward is the sum of the agents' shares, at most 2 per episode.

    Raises:
        ValueError: the food is not at an interior cell.
    """

    def __init__(self, size: int, food: Cell, max_steps: int) -> None:
        row, col = food
        if not (0 < row < size - 1 and 0 < col < size - 1):
            raise ValueError(
                f"food at {(row, col)} is not an interior cell of a {size}x{size} board"
            )
        self.food, self.max_steps = (int(row), int(col)), max_steps
        super().__init__(_Game(size, self.food, max_steps), observation_size=8)
        self._reached = [False] * N_AGENTS

    def reset(self, seed: int | None = None, options: dict | None = None) -> ResetResult:
        self._reached = [False] * N_AGENTS
        return super().reset(seed, options)

    def _paid(self, loaded: list[float]) -> list[float]:
        """Adds a share the first time that an agent stands beside the food."""
        for i, position in enumerate(self.positions):
            if not self._reached[i] and distance(position, self.food) == 1:
                self._reached[i] = True
                loaded[i] += 1 / N_AGENTS
        return loaded


def draw(observations: np.ndarray, present: np.ndarray, size: int) -> Drawing:
    """Draws the agents and, once one of them sees it, the food."""
    food = {
        (own_row + row - 1, own_col + col - 1)
        for row, col, own_row, own_col in observations[present, :4].tolist()
        if row >= 0
    }
    shapes = [cell(place, colour=FOOD) for place in sorted(food)]
    for i in np.flatnonzero(present).tolist():
        place = observations[i, 2:4].tolist()
        shapes.append(cell(place, "circle", agent=i))
    return Drawing(size, size, shapes, grid=1)


def _family(size: int, max_steps: int) -> TaskFamily:
    """Family of one board size: food at nine training cells, or at any other interior cell."""

    def parameters(cell: Cell) -> dict[str, Any]:
        return {"size": size, "food": list(cell), "max_steps": max_steps}

    lines = (1, (size - 1) // 2, size - 2)
    interior = [(row, col) for row in range(1, size - 1) for col in range(1, size - 1)]
    training = [(row, col) for row in lines for col in lines]
    held_out = [cell for cell in interior if cell not in training]
    return TaskFamily(
        name=f"lbf_{size}x{size}",
        make=lambda size, food, max_steps: Foraging(size, tuple(food), max_steps),
        training={f"food_{r}_{c}": parameters((r, c)) for r, c in training},
        held_out={f"food_{r}_{c}": parameters((r, c)) for r, c in held_out},
        max_steps=max_steps,
        draw=partial(draw, size=size),
        action_names=ACTIONS,
        return_bounds=(0.0, 2.0),
        expert=expert,
        explorer=lambda: Explorer(size),
        distance=lambda a, b: distance(a["food"], b["food"]),
        reveal=lambda parameters: parameters["food"],
        description=f"level-based foraging, {size}x{size} board, food at an unknown cell",
    )


lbf_7x7 = _family(7, 15)
# no benchmark: settings are chosen on it, to leave the others untouched
lbf_8x8 = _family(8, 17)
lbf_9x9 = _family(9, 20)
