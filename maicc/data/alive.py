"""Where an agent's part in an episode ends: the dead have no trajectory."""

from __future__ import annotations

import numpy as np

from maicc.data.returns import return_to_go
from maicc.types import EpisodeBatch, Trajectories


def alive_steps(observations: np.ndarray, free: np.ndarray, played: np.ndarray) -> np.ndarray:
    """An agent's steps up to its last one with a choice to make or something to see: (..., T).

    The dead see nothing and have one legal action. The first step is always among them.

    Args:
        observations: (..., T, O).
        free: (..., T) bool, more than one action is legal.
        played: (..., T) bool.
    """
    busy = played & ((observations != 0).any(-1) | free)
    busy[..., 0] = True
    return np.logical_or.accumulate(busy[..., ::-1], -1)[..., ::-1].copy()


def alive_steps_in(episodes: EpisodeBatch) -> np.ndarray:
    """`alive` of whole episodes: (E, N, T)."""
    seen = episodes.observations[:, :-1].swapaxes(1, 2)
    free = episodes.action_mask[:, :-1].sum(-1).swapaxes(1, 2) > 1
    played = np.arange(seen.shape[2]) < episodes.length[:, None]
    return alive_steps(seen, free, played[:, None])


def cut_at_death(t: Trajectories, there: np.ndarray) -> Trajectories:
    """The slices (M, T, ...), NumPy arrays, of the steps (M, T) bool in which an agent is alive.

    What followed, the team's rewards, the end and whether the return was reached, is the outcome of
    its last step: returns-to-go are those of the team's whole episode.
    """
    row, last = np.arange(len(there)), there.sum(1) - 1
    rewards = np.where(there, t.rewards, 0.0).astype(t.rewards.dtype)
    rewards[row, last] = return_to_go(t.rewards)[row, last]
    done, completed = t.done * there, t.completed * there
    done[row, last] = t.done.max(1)
    completed[row, last] = t.completed[row, t.step_mask.sum(1) - 1]
    return t._replace(rewards=rewards, done=done, completed=completed, step_mask=there)
