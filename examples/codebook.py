"""A game that hides a codebook: each episode shows a cue, and one of five levers is right for it.

A task is a codebook of 32 cues. What one episode tells of its cue is worth something only when the
cue comes back, which is many episodes later: here an agent must look up what it remembers.
"""

import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv

from maicc.envs import TaskFamily

CUES, LEVERS, STEPS = 32, 5, 4


class Codebook(ParallelEnv):
    """Three agents, who do not see each other; each is paid when it pulls right."""

    metadata = {"name": "codebook"}  # noqa: RUF012 - PettingZoo's way

    def __init__(self, seed):
        self.right = np.random.default_rng(seed).integers(LEVERS, size=CUES)
        self.possible_agents = ["ann", "bob", "cy"]
        self._sight = Box(0.0, 1.0, (CUES + LEVERS + 1,), np.float32)
        self._pull = Discrete(LEVERS)

    def observation_space(self, agent):
        return self._sight

    def action_space(self, agent):
        return self._pull

    def reset(self, seed=None, options=None):
        self.agents, self.played = list(self.possible_agents), 0
        self.cue = int(np.random.default_rng(seed).integers(CUES))
        return self._look({}, {}), {agent: {} for agent in self.agents}

    def step(self, actions):
        right = {agent: lever == self.right[self.cue] for agent, lever in actions.items()}
        self.played += 1
        over = self.played == STEPS
        seen, agents = self._look(actions, right), self.agents
        if over:
            self.agents = []
        return (
            seen,
            {agent: right[agent] / len(agents) / STEPS for agent in agents},
            dict.fromkeys(agents, False),
            dict.fromkeys(agents, over),
            {agent: {} for agent in agents},
        )

    def _look(self, actions, right):
        """Shows the cue, the lever that the agent pulled, and whether it was right."""
        views = {}
        for agent in self.possible_agents:
            view = np.zeros(CUES + LEVERS + 1, np.float32)
            view[self.cue] = 1.0
            if agent in actions:
                view[CUES + actions[agent]], view[-1] = 1.0, right[agent]
            views[agent] = view
        return views


def expert(env, rng):
    """Knows the codebook."""
    return dict.fromkeys(env.possible_agents, int(env.unwrapped.right[env.unwrapped.cue]))


codebook = TaskFamily(
    name="codebook", make=Codebook, max_steps=STEPS, expert=expert, return_bounds=(0.0, 1.0),
    reveal=lambda task: np.eye(LEVERS)[Codebook(**task).right].ravel().tolist(),
    training=[{"seed": s} for s in range(300)],
    held_out=[{"seed": s} for s in range(1000, 1016)],
)  # fmt: skip
