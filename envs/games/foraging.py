"""A board of level-based foraging as a PettingZoo environment, on the `lbforaging` package."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

import numpy as np
from gymnasium import spaces
from lbforaging.foraging.environment import Action, ForagingEnv
from pettingzoo import ParallelEnv

from maicc.envs.adapters import ResetResult, StepResult
from maicc.envs.games.ways import Cell

FOOD = "#fca5a5"  # its colour in drawings
ACTIONS = ("none", "north", "south", "west", "east", "load")
_UPSTREAM = tuple(Action)  # the same, as upstream names them


class Game(ForagingEnv):
    """The upstream game, which finds the same legal actions from lists: that takes less time.

    Attributes:
        legal: For each player whether each of `ACTIONS` is legal, in their order.
    """

    def _gen_valid_moves(self) -> None:
        field, last = self.field.tolist(), (self.rows - 1, self.cols - 1)
        self.legal: list[tuple[bool, ...]] = []
        for player in self.players:
            row, col = player.position
            # at an edge upstream looks at the player's own cell
            north, south = field[max(row - 1, 0)][col], field[min(row + 1, last[0])][col]
            west, east = field[row][max(col - 1, 0)], field[row][min(col + 1, last[1])]
            self.legal.append(
                (
                    True,
                    row > 0 and north == 0,
                    row < last[0] and south == 0,
                    col > 0 and west == 0,
                    col < last[1] and east == 0,
                    north + south + west + east > 0,
                )
            )
        self._valid_actions = {
            player: list(compress(_UPSTREAM, legal))
            for player, legal in zip(self.players, self.legal, strict=True)
        }


class Board(ParallelEnv):
    """One game of foraging. It ends when no food is left, or at the step limit.

    `infos` hold the `action_mask`. Each agent is paid its own share.

    Args:
        game: The upstream game.
        observation_size: Length of an observation.
    """

    metadata = {"name": "lbf", "render_modes": [], "is_parallelizable": True}  # noqa: RUF012

    def __init__(self, game: Game, observation_size: int) -> None:
        self.render_mode = None
        self.game, self.size = game, game.rows
        self.possible_agents = [f"agent_{i}" for i in range(len(game.players))]
        self.agents: list[str] = []
        highest = max(self.size - 1, sum(game.max_player_level))
        box = spaces.Box(-1.0, float(highest), (observation_size,), np.float32)
        self._observation_spaces = dict.fromkeys(self.possible_agents, box)
        self._action_spaces: dict[str, spaces.Discrete] = {
            agent: spaces.Discrete(len(ACTIONS)) for agent in self.possible_agents
        }

    def observation_space(self, agent: str) -> spaces.Box:
        return self._observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Discrete:
        return self._action_spaces[agent]

    @property
    def positions(self) -> tuple[Cell, ...]:
        """Cell of each agent."""
        return tuple(player.position for player in self.game.players)

    @property
    def foods(self) -> dict[Cell, int]:
        """Level of the food at each cell where there is some."""
        rows, columns = np.nonzero(self.game.field)
        return {
            (int(row), int(column)): int(self.game.field[row, column])
            for row, column in zip(rows, columns, strict=True)
        }

    def reset(self, seed: int | None = None, options: dict | None = None) -> ResetResult:
        self.agents = list(self.possible_agents)
        observations, _ = self.game.reset(seed=seed)
        return dict(zip(self.agents, observations, strict=True)), self._infos()

    def step(self, actions: dict[str, int]) -> StepResult:
        agents = list(self.agents)
        observations, loaded, *_ = self.game.step([int(actions[agent]) for agent in agents])
        rewards = self._paid([float(reward) for reward in loaded])
        # Upstream reports the time limit as game over too; the food being gone tells them apart.
        terminated = not self.game.field.any()
        truncated = not terminated and self.game.current_step >= self.game._max_episode_steps
        infos = self._infos()
        if terminated or truncated:
            self.agents = []
        return (
            dict(zip(agents, observations, strict=True)),
            dict(zip(agents, rewards, strict=True)),
            dict.fromkeys(agents, terminated),
            dict.fromkeys(agents, truncated),
            infos,
        )

    def _paid(self, loaded: list[float]) -> Sequence[float]:
        """Rewards of the agents, from what upstream pays for loading."""
        return loaded

    def _infos(self) -> dict[str, dict[str, np.ndarray]]:
        masks = np.array(self.game.legal, np.int8)
        return {
            agent: {"action_mask": mask}
            for agent, mask in zip(self.possible_agents, masks, strict=True)
        }
