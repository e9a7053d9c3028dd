"""Foraging with hidden levels: which pair of agents lifts which food is learned by trying.

Four agents have levels that a task fixes and nobody observes. Each episode has two foods, and their
levels are just the sums of two pairs of agents. Of the six ways to send two agents to each food one
clears the board, and the time allows for one attempt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, permutations
from typing import Any

import numpy as np

from maicc.envs.drawing import Drawing, cell
from maicc.envs.games.foraging import ACTIONS, FOOD, Board, Game
from maicc.envs.games.ways import NONE, Cell, cells_beside, distance, send
from maicc.envs.tasks import TaskFamily, sample_tasks

SIZE, MAX_STEPS = 7, 9
HIGHEST = 5  # level
PAIRS = tuple(combinations(range(4), 2))
CLEARED = 0.5  # share of the return that is paid for clearing the board; the rest is upstream's
TRAINING, HELD_OUT = 300, 24


class _Game(Game):
    """The upstream rules with chosen levels, and two foods that are far apart."""

    def __init__(self, levels: Sequence[int], heavy: int, max_steps: int) -> None:
        self.levels, self.heavy, self.light = levels, heavy, sum(levels) - heavy
        super().__init__(
            players=len(levels),
            min_player_level=1,
            max_player_level=max(levels),
            min_food_level=self.light,
            max_food_level=self.heavy,
            field_size=(SIZE, SIZE),
            max_num_food=2,
            sight=SIZE,
            max_episode_steps=max_steps,
            force_coop=False,
            observe_agent_levels=False,
        )

    def spawn_players(self, min_player_levels: Any, max_player_levels: Any) -> None:
        middle = [(row, col) for row in range(2, SIZE - 2) for col in range(2, SIZE - 2)]
        starts = self.np_random.permutation(len(middle))
        for player, level, start in zip(self.players, self.levels, starts, strict=False):
            player.reward = 0
            player.setup(middle[start], level, self.field_size)

    def spawn_food(self, max_num_food: int, min_levels: Any, max_levels: Any) -> None:
        cells = [(row, col) for row in (1, SIZE - 2) for col in (1, SIZE - 2)]
        heavy, light = self.np_random.permutation(len(cells))[:2]
        self.field[cells[heavy]], self.field[cells[light]] = self.heavy, self.light
        self._food_spawned = self.field.sum()

    def _make_gym_obs(self) -> list[np.ndarray]:
        seen = super()._make_gym_obs()
        return list(np.concatenate([seen, np.eye(len(seen), dtype=np.float32)], 1))


class Levels(Board):
    """A PettingZoo environment whose agents have the hidden `levels`; the heavy food's is `heavy`.

    An observation has 18 numbers. The first 14 are upstream's: row, column and level of both foods,
    then row and column of the agent itself and of the three others. All agents see the whole board.
    Then it tells which of the four agents it is. The team return is at most 1: half of it is paid
    for lifting, as upstream does, and the other half when the board is clear.
    """

    def __init__(self, levels: Sequence[int], heavy: int, max_steps: int) -> None:
        super().__init__(_Game(levels, heavy, max_steps), observation_size=6 + 3 * len(levels))

    def _paid(self, loaded: list[float]) -> list[float]:
        cleared = CLEARED / len(loaded) if not self.game.field.any() else 0.0
        return [(1 - CLEARED) * paid + cleared for paid in loaded]


def lifters(levels: Sequence[int], heavy: int) -> list[tuple[int, int]]:
    """Pairs of agents that must lift the heavy food so that the others can lift the light one."""
    return [pair for pair in PAIRS if sum(levels[i] for i in pair) == heavy]


def _send(
    positions: Sequence[Cell],
    foods: Mapping[Cell, int],
    heavy: Sequence[int],
    level: int,
    rng: np.random.Generator,
) -> list[int]:
    """Sends each agent on a shortest way to a cell of its own beside its food, where it loads.

    Args:
        positions: Cell of each agent.
        foods: Level of the food at each cell.
        heavy: Agents that are sent to the food of this `level`; the others go to the other one.
    """
    goals: dict[int, Cell] = {}
    for food, its_level in foods.items():
        team = [i for i in range(len(positions)) if (i in heavy) == (its_level == level)]
        goals |= zip(team, cells_beside(food, [positions[i] for i in team]), strict=True)
    actions = send(SIZE, foods, positions, goals, rng)
    return [actions.get(i, NONE) for i in range(len(positions))]


def expert(env: Levels, rng: np.random.Generator) -> dict[str, int]:
    """Sends the agents that can lift the heavy food to it, and the others to the light one."""
    game = env.game
    heavy = lifters(game.levels, game.heavy)[0]
    actions = _send(env.positions, env.foods, heavy, game.heavy, rng)
    return dict(zip(env.possible_agents, actions, strict=True))


def guess(
    observation: np.ndarray, action_mask: np.ndarray, agent: str, rng: np.random.Generator
) -> int:
    """Goes along with a guess, which all agents make alike: it follows from where the foods are.

    Every pair is sent to the heavy food as often as any other. The way that one agent plans for all
    is the same for all, so that nobody stands in another's way.
    """
    numbers = observation[:14].astype(int).tolist()
    foods = {(r, c): level for r, c, level in zip(*[iter(numbers[:6])] * 3, strict=True) if level}
    own, *others = zip(*[iter(numbers[6:])] * 2, strict=True)
    number = int(observation[14:].argmax())
    positions = [*others[:number], own, *others[number:]]
    pair: Sequence[int]
    if len(foods) == 2:
        quarters = [
            2 * (r > SIZE // 2) + (c > SIZE // 2)
            for r, c in sorted(foods, key=lambda food: foods[food])
        ]
        pair = PAIRS[list(permutations(range(4), 2)).index(tuple(quarters)) % len(PAIRS)]
    else:  # one is lifted: the two who are nearest to the other one go on
        (food,) = foods
        ways = [distance(food, place) for place in positions]
        pair = np.argsort(ways, kind="stable")[:2].tolist()
    alike = np.random.default_rng([cell for place in positions for cell in place])
    return _send(positions, foods, pair, max(foods.values()), alike)[number]


def draw(observations: np.ndarray, present: np.ndarray) -> Drawing:
    """Draws foods with their levels, and agents, whose levels nobody sees."""
    numbers = observations[:, :14]
    foods = {tuple(food) for food in numbers[present, :6].reshape(-1, 3).tolist() if food[2] > 0}
    shapes = [cell((r, c), colour=FOOD, label=f"{level:.0f}") for r, c, level in sorted(foods)]
    for i in np.flatnonzero(present).tolist():
        shapes.append(cell(numbers[i, 6:8].tolist(), "circle", agent=i))
    return Drawing(SIZE, SIZE, shapes, grid=1)


def _draw(rng: np.random.Generator) -> dict[str, Any]:
    """Draws levels and a heavy food that only one pair can lift while the others lift the rest."""
    while True:
        levels = rng.integers(1, HIGHEST + 1, size=4).tolist()
        heavy = sum(levels[i] for i in PAIRS[int(rng.integers(len(PAIRS)))])
        if 2 * heavy > sum(levels) and len(lifters(levels, heavy)) == 1:
            return {"levels": levels, "heavy": heavy, "max_steps": MAX_STEPS}


def reveal(parameters: Mapping[str, Any]) -> list[float]:
    """Tells which agents lift the heavy food: 1 for two of them, and 0 for the others."""
    (pair,) = lifters(parameters["levels"], parameters["heavy"])
    return [float(i in pair) for i in range(len(parameters["levels"]))]


def game(parameters: Mapping[str, Any]) -> tuple[int, ...]:
    """Tells what the levels decide: those of the foods, and which agents together lift which."""
    levels, heavy = parameters["levels"], parameters["heavy"]
    groups = [g for size in range(1, len(levels) + 1) for g in combinations(levels, size)]
    foods = heavy, sum(levels) - heavy
    return (*foods, *(sum(group) >= food for food in foods for group in groups))


_training, _held_out = sample_tasks(_draw, TRAINING, HELD_OUT, game=game)
lbf_levels = TaskFamily(
    name="lbf_levels",
    make=Levels,
    training=_training,
    held_out=_held_out,
    max_steps=MAX_STEPS,
    return_bounds=(0.0, 1.0),
    expert=expert,
    behaviours=guess,
    reveal=reveal,
    draw=draw,
    action_names=ACTIONS,
    description="level-based foraging, four agents whose levels nobody observes",
)
