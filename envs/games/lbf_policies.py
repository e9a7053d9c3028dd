"""Scripted policies for level-based foraging: the expert that makes data, and an explorer.

The expert sees the whole board. The explorer is the yardstick for fast adaptation: it knows the
rules and its own observations, nothing else.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import permutations
from typing import NamedTuple

import numpy as np
from pettingzoo import ParallelEnv

from maicc.envs.games.ways import LOAD, MOVES, NONE, Cell, distance, step_towards, ways_to


def expert(env: ParallelEnv, rng: np.random.Generator) -> dict[str, int]:
    """Sends each agent on a shortest way to a cell of its own beside the food, where it loads.

    Ways and cells that are equally good are drawn at random. An agent loads while it waits: with
    sight 1 it cannot see whether the others have arrived.
    """
    positions = env.positions
    actions = [LOAD if distance(p, env.food) == 1 else NONE for p in positions]
    taken = {p for p in positions if distance(p, env.food) == 1}
    choices = _best_targets(env.size, env.food, positions)
    for i, target in choices[int(rng.integers(len(choices)))]:
        ways = ways_to(env.size, env.food, target)
        action, cell = step_towards(ways, positions[i], taken, rng)
        actions[i] = actions[i] if action == NONE else action
        taken.add(cell)
    return dict(zip(env.possible_agents, actions, strict=True))


@lru_cache(maxsize=1 << 18)
def _best_targets(
    size: int, food: Cell, positions: tuple[Cell, ...]
) -> list[tuple[tuple[int, Cell], ...]]:
    """Best choices of free cells beside the food for agents on their way, as pairs (agent, cell).

    The best choices have the shortest longest way, and among these the fewest steps in all.
    """
    walkers = [i for i, p in enumerate(positions) if distance(p, food) != 1]
    beside = [(food[0] + dr, food[1] + dc) for dr, dc in MOVES.values()]
    free = [cell for cell in beside if cell not in positions]

    def cost(targets: tuple[Cell, ...]) -> tuple[int, int]:
        ways = [
            ways_to(size, food, cell)[positions[i]]
            for i, cell in zip(walkers, targets, strict=True)
        ]
        return max(ways, default=0), sum(ways)

    costs = {targets: cost(targets) for targets in permutations(free, len(walkers))}
    least = min(costs.values())
    return [tuple(zip(walkers, t, strict=True)) for t, c in costs.items() if c == least]


class _View(NamedTuple):
    """Cells of the board that an agent sees."""

    position: Cell
    food: Cell | None  # None out of sight
    others: set[Cell]  # the agents in sight


def _read(observation: np.ndarray) -> _View:
    """Cells that an observation (8,) of `Foraging` shows."""
    numbers = [int(x) for x in observation]
    row, col = numbers[2:4]
    food, *others = (
        (row + numbers[i] - 1, col + numbers[i + 1] - 1) if numbers[i] >= 0 else None
        for i in (0, 4, 6)
    )
    return _View((row, col), food, {cell for cell in others if cell is not None})


class Explorer:
    """Scripted policy of one agent that looks for the food and remembers it across episodes.

    The agent sweeps the board with its own sight until it has seen the food. It then goes to the
    nearest cell beside the food that looks free, and loads.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.food: Cell | None = None
        inside = range(1, size - 1)
        self.unseen = {(row, col) for row in inside for col in inside}  # where food may be
        self._moved_from: Cell | None = None  # where the agent stood at its last move

    def act(
        self, observation: np.ndarray, action_mask: np.ndarray, rng: np.random.Generator
    ) -> int:
        """Chooses a legal action.

        Args:
            observation: (8,) as `Foraging` gives it.
            action_mask: (6,) bool.
            rng: Chooses between cells and ways that are equally good.
        """
        view = _read(observation)
        self._remember(view)
        goal = self._next_to_look(view, rng) if self.food is None else self._beside_food(view, rng)
        if goal == view.position:
            return LOAD if action_mask[LOAD] else NONE
        blocked = (
            self._moved_from == view.position
        )  # the last move led nowhere: somebody stood there
        self._moved_from = view.position
        moves = self._free_moves(view, action_mask)
        if not blocked:
            ways = ways_to(self.size, self.food or (-1, -1), goal)
            here = ways[view.position]
            moves = {a: cell for a, cell in moves.items() if ways.get(cell, np.inf) < here}
        return int(rng.choice(list(moves))) if moves else NONE

    def end_episode(self) -> None:
        """Forgets the last move; what has been seen stays."""
        self._moved_from = None

    def _remember(self, view: _View) -> None:
        """Keeps the food that is in sight, and which cells have been seen."""
        if view.food is not None:
            self.food = view.food
        self.unseen -= _around(view.position)

    def _free_moves(self, view: _View, action_mask: np.ndarray) -> dict[int, Cell]:
        """Legal moves to cells on which nobody stands, with these cells."""
        row, col = view.position
        cells = {action: (row + dr, col + dc) for action, (dr, dc) in MOVES.items()}
        return {a: cell for a, cell in cells.items() if action_mask[a] and cell not in view.others}

    def _beside_food(self, view: _View, rng: np.random.Generator) -> Cell:
        """The nearest cell beside the food on which nobody is seen."""
        assert self.food is not None
        beside = [(self.food[0] + dr, self.food[1] + dc) for dr, dc in MOVES.values()]
        free = [cell for cell in beside if cell not in view.others]
        ways = ways_to(self.size, self.food, view.position)
        return min(free, key=lambda cell: (ways[cell], rng.random()))

    def _next_to_look(self, view: _View, rng: np.random.Generator) -> Cell:
        """The cell from which most unseen cells come into sight per step of the way."""

        def worth(cell: Cell) -> float:
            return len(_around(cell) & self.unseen) / (distance(cell, view.position) + 1)

        board = range(self.size)
        cells = {(row, col) for row in board for col in board} - {view.position}
        return max(sorted(cells), key=lambda cell: (worth(cell), rng.random()))


def _around(cell: Cell) -> set[Cell]:
    """The cell and its eight neighbours, which are in sight from it."""
    return {(cell[0] + dr, cell[1] + dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1)}
