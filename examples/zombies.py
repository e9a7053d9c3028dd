"""PettingZoo's knights_archers_zombies: agents may die early. A task is how fast zombies come."""

import numpy as np
from pettingzoo.butterfly import knights_archers_zombies_v11
from pettingzoo.utils import BaseParallelWrapper

from maicc.envs import TaskFamily, map_observations


class Fresh(BaseParallelWrapper):
    """Wrapper that makes a new game for every episode; a seed fixes new games only."""

    def __init__(self, spawn_delay):
        self.options = {"spawn_delay": spawn_delay, "max_cycles": 100}
        super().__init__(knights_archers_zombies_v11.parallel_env(**self.options))

    def reset(self, seed=None, options=None):
        self.env = knights_archers_zombies_v11.parallel_env(**self.options)
        return self.env.reset(seed=seed)


def wander(observation, action_mask, agent, rng):
    """Draws any action."""
    return int(rng.integers(6))


def shoot(observation, action_mask, agent, rng):
    """Attacks most of the time."""
    return 4 if rng.random() < 0.6 else int(rng.integers(6))


zombies = TaskFamily(
    name="zombies", make=lambda spawn_delay: map_observations(Fresh(spawn_delay), np.ravel),
    training=[{"spawn_delay": d} for d in (8, 12, 16, 20)], behaviours=[wander, shoot],
    held_out=[{"spawn_delay": d} for d in (10, 14, 18)], max_steps=100,
)  # fmt: skip
