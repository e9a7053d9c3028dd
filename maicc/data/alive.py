"""The end of an agent's part in an episode: its trajectory ends with its death."""

from __future__ import annotations

import numpy as np

from maicc.data.returns import return_to_go
from maicc.types import Trajectories


def alive_up_to_last(alive: np.ndarray) -> np.ndarray:
    """Marks the steps up to an agent's last one: (..., T) bool; the first step is always one."""
    up_to_last = np.logical_or.accumulate(alive[..., ::-1], -1)[..., ::-1].copy()
    up_to_last[..., 0] = True
    return up_to_last


def cut_at_death(slices: Trajectories, alive: np.ndarray) -> Trajectories:
    """Shortens slices (M, T, ...), NumPy arrays, to the steps (M, T) bool in which an agent lives.

    The last of these steps also holds what happened afterwards: the rest of the team's rewards, the
    end of the episode and its completion. So returns-to-go are those of the team's whole episode.

    Args:
        alive: True from the first step up to the agent's last one.
    """
    row, last = np.arange(len(alive)), alive.sum(1) - 1
    rewards = np.where(alive, slices.rewards, 0.0).astype(slices.rewards.dtype)
    rewards[row, last] = return_to_go(slices.rewards)[row, last]
    done, completed = slices.done * alive, slices.completed * alive
    done[row, last] = slices.done.max(1)
    completed[row, last] = slices.completed[row, slices.step_mask.sum(1) - 1]
    return slices._replace(rewards=rewards, done=done, completed=completed, step_mask=alive)
