"""rware: robots bring the shelves that are asked for. A task is a seed. Agents act at random."""

import gymnasium as gym
import rware  # noqa: F401 - registers the environments

from maicc.envs import TaskFamily


class Warehouse(gym.Wrapper):
    """A warehouse with the same orders in every episode."""

    def __init__(self, order_seed):
        super().__init__(gym.make("rware-tiny-2ag-easy-v2", disable_env_checker=True).unwrapped)
        self.order_seed = order_seed

    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=self.order_seed)


warehouse = TaskFamily(
    name="warehouse", make=Warehouse, max_steps=60,
    training=[{"order_seed": s} for s in range(4)],
    held_out=[{"order_seed": s} for s in (100, 101)],
)  # fmt: skip
