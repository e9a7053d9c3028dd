"""Ways on a board of foraging: distances, and agents that walk around foods and one another."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from itertools import permutations

import numpy as np

Cell = tuple[int, int]  # row and column
NONE, LOAD = 0, 5
MOVES: dict[int, Cell] = {1: (-1, 0), 2: (1, 0), 3: (0, -1), 4: (0, 1)}  # north south west east


def distance(a: Cell, b: Cell) -> int:
    """Steps between two cells of an empty board."""
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


def ways_to(size: int, food: Cell, goal: Cell) -> dict[Cell, int]:
    """Steps from every cell to `goal`, around the food."""
    return ways_around(size, frozenset((food,)), goal)


@lru_cache(maxsize=1 << 14)
def ways_around(size: int, foods: frozenset[Cell], goal: Cell) -> dict[Cell, int]:
    """Steps from every cell to `goal`, around the foods (breadth-first search)."""
    ways, frontier = {goal: 0}, [goal]
    while frontier:
        following = []
        for row, col in frontier:
            for dr, dc in MOVES.values():
                cell = (row + dr, col + dc)
                inside = 0 <= cell[0] < size and 0 <= cell[1] < size
                if inside and cell not in foods and cell not in ways:
                    ways[cell] = ways[row, col] + 1
                    following.append(cell)
        frontier = following
    return ways


def step_towards(
    ways: Mapping[Cell, int], position: Cell, taken: Collection[Cell], rng: np.random.Generator
) -> tuple[int, Cell]:
    """Chooses a move to a free neighbouring cell that is nearer to the goal, if there is one.

    Args:
        ways: Steps from every cell to the goal.
        taken: Cells that are not free.
        rng: Chooses between cells that are equally near.

    Returns:
        The action and the cell that it leads to.
    """
    row, col = position
    nearer = [
        (action, cell)
        for action, cell in ((a, (row + dr, col + dc)) for a, (dr, dc) in MOVES.items())
        if cell not in taken and ways.get(cell, np.inf) < ways[position]
    ]
    return nearer[int(rng.integers(len(nearer)))] if nearer else (NONE, position)


def walk(
    size: int,
    foods: Collection[Cell],
    position: Cell,
    goal: Cell,
    taken: Collection[Cell],
    rng: np.random.Generator,
) -> tuple[int, Cell]:
    """Chooses an action on a shortest way around foods and others; at the goal it is to load.

    Args:
        taken: Cells on which somebody stands, or that somebody goes to.

    Returns:
        The action and the cell that it leads to.
    """
    if position == goal:
        return LOAD, position
    ways = ways_around(size, frozenset({*foods, *taken} - {position}), goal)
    if position not in ways:  # others stand in every way
        ways = ways_around(size, frozenset(foods), goal)
    return step_towards(ways, position, taken, rng)


def send(
    size: int,
    foods: Collection[Cell],
    positions: Sequence[Cell],
    goals: Mapping[int, Cell],
    rng: np.random.Generator,
) -> dict[int, int]:
    """Lets agents walk to their goals one after the other, so that none takes another's cell.

    Args:
        positions: Cell of each agent.
        goals: Cell that each of some agents is sent to.

    Returns:
        Action of each of these agents.
    """
    actions, taken = {}, set(positions)
    for agent, goal in goals.items():
        actions[agent], cell = walk(size, foods, positions[agent], goal, taken, rng)
        taken.add(cell)
    return actions


def cells_beside(food: Cell, positions: Sequence[Cell]) -> tuple[Cell, ...]:
    """Gives each of the agents a cell of its own beside the food, so that the last is there soon.

    Args:
        food: A cell that is not at the border.
        positions: Cells of the agents, at most four.
    """
    beside = [(food[0] + dr, food[1] + dc) for dr, dc in MOVES.values()]

    def cost(cells: Sequence[Cell]) -> tuple[int, int]:
        ways = [distance(a, b) for a, b in zip(positions, cells, strict=True)]
        return max(ways), sum(ways)

    return min(permutations(beside, len(positions)), key=cost)
