"""mpe2 simple_spread: cover three landmarks that nobody sees. A task is where they are."""

import numpy as np
from mpe2 import simple_spread_v3

from maicc.envs import TaskFamily, map_observations

AROUND = np.array([[0.0, 0.25], [-0.22, -0.12], [0.22, -0.12]])  # a triangle


def make(x, y):
    """Makes a world whose landmarks are a triangle around (x, y)."""
    env = simple_spread_v3.parallel_env(max_cycles=25, dynamic_rescaling=False)
    scenario = env.unwrapped.scenario

    def reset_world(world, rng):
        type(scenario).reset_world(scenario, world, rng)
        for i in range(3):
            world.agents[i].state.p_pos = AROUND[i].copy()
            world.landmarks[i].state.p_pos = AROUND[i] + [x, y]

    scenario.reset_world = reset_world
    return map_observations(env, lambda numbers: np.delete(numbers, range(4, 10)))


def expert(env, rng):
    """Sends each agent to a landmark of its own, with its speed taken into account."""
    actions, world = {}, env.unwrapped.world
    for agent, landmark in zip(world.agents, world.landmarks, strict=True):
        way = landmark.state.p_pos - agent.state.p_pos - 0.3 * agent.state.p_vel
        axis = int(np.abs(way).argmax())
        actions[agent.name] = 0 if np.abs(way).max() < 0.05 else 1 + 2 * axis + int(way[axis] > 0)
    return actions


def at(turn):
    """Parameters of the task that lies in a direction, given as a share of a full turn."""
    return {
        "x": round(0.8 * np.cos(2 * np.pi * turn), 3),
        "y": round(0.8 * np.sin(2 * np.pi * turn), 3),
    }


spread = TaskFamily(
    name="spread", make=make, max_steps=25, expert=expert, team_reward="mean",
    training=[at(i / 12) for i in range(12)], held_out=[at((i + 0.5) / 12) for i in range(12)],
)  # fmt: skip
