"""lbforaging as it comes: two foods, three players of different level, sight 2; a task is a map."""

import gymnasium as gym
import lbforaging  # noqa: F401 - registers the environments
import numpy as np

from maicc.envs import TaskFamily


class Map(gym.Wrapper):
    def __init__(self, map_seed):
        super().__init__(gym.make("Foraging-2s-8x8-3p-2f-v3", disable_env_checker=True).unwrapped)
        self.map_seed = map_seed

    def reset(self, *, seed=None, options=None):
        for player in self.env.players:
            player.position = None  # else the map depends on where the last episode ended
        return self.env.reset(seed=self.map_seed)


def forage(observation, action_mask, agent, rng):
    """To the nearest food in sight and load; at random where there is none."""
    foods, me = observation[:6].reshape(2, 3), observation[6:8]
    seen = foods[foods[:, 2] > 0, :2] - me
    down, right = min(seen, key=lambda way: np.abs(way).sum(), default=(0, 0))
    if abs(down) + abs(right) <= 1:
        return 5 if len(seen) else int(rng.integers(1, 5))
    along = abs(down) > abs(right) if down and right else bool(down)
    return (1 + int(down > 0)) if along else (3 + int(right > 0))


foraging = TaskFamily(
    name="foraging", make=Map, max_steps=30, behaviours=forage, return_bounds=(0.0, 1.0),
    training=[{"map_seed": s} for s in range(12)],
    held_out=[{"map_seed": s} for s in range(100, 112)],
)  # fmt: skip
