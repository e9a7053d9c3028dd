"""Foraging beside a stranger: two agents of ours learn what their scripted partner goes for.

Each episode has four foods, and it takes all three to lift one. The partner walks to the food that
it likes best and loads there until the time is up. What it likes is fixed by the task and hidden.
Agents see others only when they are near, and the time allows for few second attempts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from pettingzoo import ParallelEnv

from maicc.envs.adapters import ResetResult
from maicc.envs.drawing import Drawing, cell
from maicc.envs.games.foraging import ACTIONS, FOOD, Board, Game
from maicc.envs.games.ways import NONE, Cell, cells_beside, distance, send
from maicc.envs.partners import with_partners
from maicc.envs.tasks import TaskFamily, sample_tasks

SIZE, FOODS, MAX_STEPS = 8, 4, 12
SIGHT = 2  # steps
OURS, PARTNER = ("agent_0", "agent_1"), "agent_2"
STARTS: tuple[Cell, ...] = ((SIZE - 1, 0), (SIZE - 1, SIZE - 1), (0, SIZE // 2))
STRANGER = "#6b7280"  # the partner's colour in drawings
MOST_WAITING = 3  # steps
TRAINING, HELD_OUT = 300, 24


class _Game(Game):
    """The upstream rules with foods far apart, fixed starts and our observation."""

    def __init__(self, max_steps: int) -> None:
        super().__init__(
            players=len(STARTS),
            min_player_level=1,
            max_player_level=1,
            min_food_level=len(STARTS),
            max_food_level=len(STARTS),
            field_size=(SIZE, SIZE),
            max_num_food=FOODS,
            sight=SIZE,
            max_episode_steps=max_steps,
            force_coop=True,
        )

    def spawn_players(self, min_player_levels: Any, max_player_levels: Any) -> None:
        for player, start in zip(self.players, STARTS, strict=True):
            player.reward = 0
            player.setup(start, 1, self.field_size)

    def spawn_food(self, max_num_food: int, min_levels: Any, max_levels: Any) -> None:
        foods: list[Cell] = []
        while len(foods) < max_num_food:
            row, col = self.np_random.integers(1, SIZE - 1, size=2).tolist()
            if all(distance((row, col), food) > 2 for food in foods):
                foods.append((row, col))
                self.field[row, col] = len(self.players)
        self._food_spawned = self.field.sum()

    def _make_gym_obs(self) -> list[np.ndarray]:
        foods = np.argwhere(self.field > 0)
        shown = np.full((FOODS, 2), -1)
        shown[: len(foods)] = foods
        positions = [player.position for player in self.players]
        observations = []
        for i, position in enumerate(positions):
            others = [
                p if distance(p, position) <= SIGHT else (-1, -1)
                for j, p in enumerate(positions)
                if j != i
            ]
            cells = np.array([*shown.tolist(), position, *others], np.float32)  # (4 + 1 + 2, 2)
            observations.append(cells.reshape(-1))
        return observations


class Partners(Board):
    """The board with all three agents; `with_partners` makes the third one the partner.

    An observation has 14 numbers: row and column of the foods, of the agent itself and of the two
    others, which are -1 -1 beyond two steps. An episode ends when a food is lifted.

    Args:
        likes: How much the partner likes a food to be south, to be east, and to be near its start.
        waits: Steps for which the partner stands still at first.
        max_steps: Step limit.
    """

    def __init__(self, likes: Sequence[float], waits: int, max_steps: int) -> None:
        super().__init__(_Game(max_steps), observation_size=2 * (FOODS + len(STARTS)))
        self.likes, self.waits = likes, waits
        self.target: Cell = (0, 0)

    def reset(self, seed: int | None = None, options: dict | None = None) -> ResetResult:
        result = super().reset(seed, options)
        south, east, near = self.likes
        self.target = max(
            self.foods,
            key=lambda food: south * food[0] + east * food[1] - near * distance(food, STARTS[2]),
        )
        return result

    def _paid(self, loaded: list[float]) -> list[float]:
        """Pays our agents half each for the first food, with which the episode ends."""
        if not any(loaded):
            return loaded
        self.game.field[:] = 0
        return [0.5, 0.5, 0.0]


def _send(
    positions: Sequence[Cell],
    foods: Collection[Cell],
    food: Cell,
    agents: Sequence[int],
    rng: np.random.Generator,
) -> list[int]:
    """Actions of these agents on their way to a food, with room for all three beside it."""
    goals = cells_beside(food, positions)
    return list(send(SIZE, foods, positions, {i: goals[i] for i in agents}, rng).values())


def partner(env: ParallelEnv, rng: np.random.Generator) -> int:
    """Waits, then goes to the food that it likes best and loads."""
    board = env.unwrapped
    if board.game.current_step < board.waits:
        return NONE
    return _send(board.positions, board.foods, board.target, [2], rng)[0]


def expert(env: ParallelEnv, rng: np.random.Generator) -> dict[str, int]:
    """Goes where the partner goes."""
    board = env.unwrapped
    return dict(
        zip(OURS, _send(board.positions, board.foods, board.target, [0, 1], rng), strict=True)
    )


def guess(
    observation: np.ndarray, action_mask: np.ndarray, agent: str, rng: np.random.Generator
) -> int:
    """Goes to any of the foods, to which one follows from where they are: both agents agree."""
    cells = [(r, c) for r, c in observation.astype(int).reshape(-1, 2).tolist()]
    foods, own, (other, third) = cells[:FOODS], cells[FOODS], cells[FOODS + 1 :]
    food = foods[sum(map(sum, foods)) % FOODS]
    # others who are out of sight are taken to be where they began
    begun = ((OURS.index(agent) + 1) % 2, other), (2, third)
    seen = [cell if cell[0] >= 0 else STARTS[i] for i, cell in begun]
    return _send([own, *seen], foods, food, [0], rng)[0]


def draw(observations: np.ndarray, present: np.ndarray) -> Drawing:
    """Draws the foods, our agents, and the partner while one of them sees it."""
    cells = observations[present].reshape(-1, FOODS + len(STARTS), 2).tolist()
    foods = {tuple(food) for seen in cells for food in seen[:FOODS] if food[0] >= 0}
    shapes = [cell(food, colour=FOOD) for food in sorted(foods)]
    strangers = {tuple(seen[-1]) for seen in cells if seen[-1][0] >= 0}
    shapes += [cell(place, "circle", colour=STRANGER, label="?") for place in sorted(strangers)]
    for i, seen in zip(np.flatnonzero(present).tolist(), cells, strict=True):
        shapes.append(cell(seen[FOODS], "circle", agent=i))
    return Drawing(SIZE, SIZE, shapes, grid=1)


def _make(**parameters: Any) -> ParallelEnv:
    return with_partners(Partners(**parameters), {PARTNER: partner})


def _draw(rng: np.random.Generator) -> dict[str, Any]:
    """Draws a type of partner: a direction of liking, and how long it waits."""
    likes = rng.standard_normal(3)
    likes /= np.linalg.norm(likes)
    waits = int(rng.integers(MOST_WAITING + 1))
    return {"likes": likes.round(3).tolist(), "waits": waits, "max_steps": MAX_STEPS}


def reveal(parameters: Mapping[str, Any]) -> list[float]:
    """What the partner likes, and how long it waits."""
    return [*parameters["likes"], parameters["waits"] / MOST_WAITING]


_training, _held_out = sample_tasks(_draw, TRAINING, HELD_OUT)
lbf_partners = TaskFamily(
    name="lbf_partners",
    make=_make,
    training=_training,
    held_out=_held_out,
    max_steps=MAX_STEPS,
    return_bounds=(0.0, 1.0),
    expert=expert,
    behaviours=guess,
    reveal=reveal,
    draw=draw,
    action_names=ACTIONS,
    description="level-based foraging beside a partner who goes for what it likes",
)
