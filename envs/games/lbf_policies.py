"""Scripted policies for level-based foraging: the expert that makes data, and an explorer.

The expert sees the whole board. The explorer is the yardstick for fast adaptation: it knows the
rules and its own observations, nothing else.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import permutations

import numpy as np
from pettingzoo import ParallelEnv

Cell = tuple[int, int]  # row and column
NONE, LOAD = 0, 5
MOVES: dict[int, Cell] = {1: (-1, 0), 2: (1, 0), 3: (0, -1), 4: (0, 1)}  # north south west east


def distance(a: Cell, b: Cell) -> int:
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


def expert(env: ParallelEnv, rng: np.random.Generator) -> dict[str, int]:
    """Each agent takes a shortest way to a cell beside the food that is its own, and loads there.

    Ways and cells that are equally good are drawn at random. An agent loads while it waits: with
    sight 1 it cannot see whether the others have arrived.
    """
    positions = env.positions
    actions = [LOAD if distance(p, env.food) == 1 else NONE for p in positions]
    taken = {p for p in positions if distance(p, env.food) == 1}
    choices = _best_targets(env.size, env.food, positions)
    for i, target in choices[int(rng.integers(len(choices)))]:
        ways, (row, col) = ways_to(env.size, env.food, target), positions[i]
        nearer = [
            (a, cell)
            for a, cell in ((a, (row + dr, col + dc)) for a, (dr, dc) in MOVES.items())
            if cell not in taken and ways.get(cell, np.inf) < ways[row, col]
        ]
        cell = (row, col)
        if nearer:
            actions[i], cell = nearer[int(rng.integers(len(nearer)))]
        taken.add(cell)
    return dict(zip(env.possible_agents, actions, strict=True))


@lru_cache(maxsize=1 << 18)
def _best_targets(
    size: int, food: Cell, positions: tuple[Cell, ...]
) -> list[tuple[tuple[int, Cell], ...]]:
    """Free cells beside the food for the agents on their way: (agent, cell), the best choices.

    The best have the shortest longest way, then the fewest steps in all.
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


@lru_cache(maxsize=1 << 12)
def ways_to(size: int, food: Cell, goal: Cell) -> dict[Cell, int]:
    """Steps from every cell to `goal`, around the food (breadth-first search)."""
    ways, frontier = {goal: 0}, [goal]
    while frontier:
        following = []
        for row, col in frontier:
            for dr, dc in MOVES.values():
                cell = (row + dr, col + dc)
                inside = 0 <= cell[0] < size and 0 <= cell[1] < size
                if inside and cell != food and cell not in ways:
                    ways[cell] = ways[row, col] + 1
                    following.append(cell)
        frontier = following
    return ways


class Explorer:
    """One agent. It sweeps the board with its own sight until it has seen the food, remembers the
    cell across episodes, goes to the nearest cell beside it that looks free, and loads.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.food: Cell | None = None
        inside = range(1, size - 1)
        self.unseen = {(row, col) for row in inside for col in inside}  # where food may be
        self._tried: Cell | None = None

    def act(
        self, observation: np.ndarray, action_mask: np.ndarray, rng: np.random.Generator
    ) -> int:
        """
        Args:
            observation: (8,) as `Foraging` gives it.
            action_mask: (6,) bool.
        """
        numbers = [int(x) for x in observation]
        own = (numbers[2], numbers[3])
        if numbers[0] >= 0:
            self.food = (own[0] + numbers[0] - 1, own[1] + numbers[1] - 1)
        self.unseen -= {(own[0] + r, own[1] + c) for r in (-1, 0, 1) for c in (-1, 0, 1)}
        others = {
            (own[0] + numbers[i] - 1, own[1] + numbers[i + 1] - 1)
            for i in (4, 6)
            if numbers[i] >= 0
        }
        goal = self._beside_food(own, others, rng) if self.food else self._next_to_look(own, rng)
        if goal == own:
            return LOAD if action_mask[LOAD] else NONE
        blocked = self._tried == own  # the last move led nowhere: somebody was in the way
        self._tried = own
        ways = ways_to(self.size, self.food or (-1, -1), goal)
        steps = [
            action
            for action, (dr, dc) in MOVES.items()
            if action_mask[action]
            and (own[0] + dr, own[1] + dc) not in others
            and (blocked or ways.get((own[0] + dr, own[1] + dc), np.inf) < ways[own])
        ]
        return int(rng.choice(steps)) if steps else NONE

    def end_episode(self) -> None:
        self._tried = None

    def _beside_food(self, own: Cell, others: set[Cell], rng: np.random.Generator) -> Cell:
        assert self.food is not None
        beside = [(self.food[0] + dr, self.food[1] + dc) for dr, dc in MOVES.values()]
        free = [cell for cell in beside if cell not in others]
        ways = ways_to(self.size, self.food, own)
        return min(free, key=lambda cell: (ways[cell], rng.random()))

    def _next_to_look(self, own: Cell, rng: np.random.Generator) -> Cell:
        """The cell from which most unseen cells come into sight per step of the way."""

        def worth(cell: Cell) -> float:
            seen = sum(
                (cell[0] + r, cell[1] + c) in self.unseen for r in (-1, 0, 1) for c in (-1, 0, 1)
            )
            return seen / (distance(cell, own) + 1)

        board = range(self.size)
        cells = {(row, col) for row in board for col in board} - {own}
        return max(sorted(cells), key=lambda cell: (worth(cell), rng.random()))
