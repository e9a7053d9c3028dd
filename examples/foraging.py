"""lbforaging: two foods, three players of different level, sight 2. A task is a map."""

import gymnasium as gym
import lbforaging  # noqa: F401 - registers the environments
import numpy as np

from maicc.envs import TaskFamily

MOVES = {1: (-1, 0), 2: (1, 0), 3: (0, -1), 4: (0, 1)}


class Map(gym.Wrapper):
    """A game that starts with the same map at every reset."""

    def __init__(self, map_seed):
        super().__init__(gym.make("Foraging-2s-8x8-3p-2f-v3", disable_env_checker=True).unwrapped)
        self.map_seed = map_seed

    def reset(self, *, seed=None, options=None):
        for player in self.env.players:
            player.position = None  # else the map depends on where the last episode ended
        return self.env.reset(seed=self.map_seed)


def expert(env, rng):
    """Sends all agents to the same food: together they are strong enough to load it."""
    game = env.unwrapped
    at = [np.array(player.position) for player in game.players]
    food = min(np.argwhere(game.field), key=lambda cell: sum(np.abs(cell - a).sum() for a in at))
    taken = [*map(tuple, at), *map(tuple, np.argwhere(game.field))]

    def far(me, move):
        to = me + MOVES[move]
        free = (to >= 0).all() and (to < 8).all() and tuple(to) not in taken
        return np.abs(food - to).sum() + rng.random() if free else np.inf

    def act(me):
        return 5 if np.abs(food - me).sum() == 1 else min(MOVES, key=lambda move: far(me, move))

    return {agent: act(me) for agent, me in zip(env.possible_agents, at, strict=True)}


foraging = TaskFamily(
    name="foraging", make=Map, max_steps=30, expert=expert, return_bounds=(0.0, 1.0),
    training=[{"map_seed": s} for s in range(48)],
    held_out=[{"map_seed": s} for s in range(100, 112)],
)  # fmt: skip
