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
    """Three agents, who do not see each other; the team is paid for each that pulls right."""

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
        return self._look({}, 0.0), {agent: {} for agent in self.agents}

    def step(self, actions):
        paid = sum(lever == self.right[self.cue] for lever in actions.values()) / 3
        self.played += 1
        over = self.played == STEPS
        seen, agents = self._look(actions, paid), self.agents
        if over:
            self.agents = []
        return (
            seen,
            dict.fromkeys(agents, paid / 3 / STEPS),
            dict.fromkeys(agents, False),
            dict.fromkeys(agents, over),
            {agent: {} for agent in agents},
        )

    def _look(self, actions, paid):
        """Shows the cue, the lever that the agent pulled, and what the team was paid."""
        views = {}
        for agent in self.possible_agents:
            view = np.zeros(CUES + LEVERS + 1, np.float32)
            view[self.cue], view[-1] = 1.0, paid
            if agent in actions:
                view[CUES + actions[agent]] = 1.0
            views[agent] = view
        return views


def expert(env, rng):
    """Knows the codebook."""
    return dict.fromkeys(env.possible_agents, int(env.unwrapped.right[env.unwrapped.cue]))


codebook = TaskFamily(
    name="codebook", make=Codebook, max_steps=STEPS, expert=expert, return_bounds=(0.0, 1.0),
    training=[{"seed": s} for s in range(300)],
    held_out=[{"seed": s} for s in range(1000, 1016)],
)  # fmt: skip
