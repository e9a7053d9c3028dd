"""Where trajectories end: an agent's part in an episode, padding, and groups of one length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from maicc.returns import return_to_go
from maicc.types import Trajectories

if TYPE_CHECKING:
    from torch import Tensor

_GROUPS = 4


def alive(observations: np.ndarray, action_mask: np.ndarray, played: np.ndarray) -> np.ndarray:
    """An agent's steps up to its last one with a choice to make or something to see: (..., T).

    The dead see nothing and have one legal action. The first step is always among them.

    Args:
        observations: (..., T, O).
        action_mask: (..., T, A) bool, True where legal.
        played: (..., T) bool.
    """
    busy = played & ((observations != 0).any(-1) | (action_mask.sum(-1) > 1))
    busy[..., 0] = True
    return np.logical_or.accumulate(busy[..., ::-1], -1)[..., ::-1].copy()


def until_death(t: Trajectories, alive: np.ndarray) -> Trajectories:
    """The slices (M, T, ...), NumPy arrays, without what an agent has no part in any more.

    What followed, the team's rewards, the end and whether the return was reached, is the outcome of
    its last step: returns-to-go are those of the team's whole episode.

    Args:
        alive: (M, T) bool.
    """
    row, last = np.arange(len(alive)), alive.sum(1) - 1
    rewards = np.where(alive, t.rewards, 0.0).astype(t.rewards.dtype)
    rewards[row, last] = return_to_go(t.rewards)[row, last]
    done, completed = t.done * alive, t.completed * alive
    done[row, last] = t.done.max(1)
    completed[row, last] = t.completed[row, t.step_mask.sum(1) - 1]
    return t._replace(rewards=rewards, done=done, completed=completed, step_mask=alive)


def trimmed(t: Trajectories) -> Trajectories:
    """Without steps that none of them played: (..., T, ...) tensors, the first step always kept."""
    lead = t.step_mask.ndim - 1
    T = max(int(t.step_mask.sum(-1).max()) if t.step_mask.numel() else 0, 1)
    return Trajectories(*(part.narrow(lead, 0, T) for part in t))


def by_length(length: Tensor) -> list[Tensor]:
    """The rows of a batch (Q,) in groups of about one length, the short ones first.

    All in one group where padding each group to its longest row, and not all to the longest of
    all, saves less than a fifth; and on a GPU, where a small group takes as long as a large one.
    """
    order = length.argsort(stable=True)
    if length.device.type != "cpu":
        return [order]
    parts = [part for part in order.tensor_split(_GROUPS) if len(part)]
    padded = sum(len(part) * int(length[part[-1]]) for part in parts)
    return parts if padded <= 0.8 * len(length) * int(length.max()) else [order]
