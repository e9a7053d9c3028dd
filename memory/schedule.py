"""Schedules of looking up offline and of exploring: METHOD.md, sections 7 and 12."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Mixture(NamedTuple):
    """Probabilities of R runs, or of their agents, (R,)."""

    offline: np.ndarray  # of retrieving from the offline memory
    sample: np.ndarray  # of sampling the action instead of taking the best


def decay(episode: int, episodes: int, rate: float, runs: int) -> Mixture:
    """The paper's schedule: offline with exp(-rate t / T) in episode t of T.

    Sampling with 0.001^(t / T) is the authors' code.
    """
    progress = episode / episodes
    return Mixture(np.full(runs, np.exp(-rate * progress)), np.full(runs, 0.001**progress))


def fixed(beta: float, episode: int, episodes: int, runs: int) -> Mixture:
    """A probability `beta` that never changes: 0 is online only, 1 offline only."""
    return Mixture(np.full(runs, beta), np.full(runs, 0.001 ** (episode / episodes)))


def evidence(best_return: np.ndarray, goal: float, floor: float) -> Mixture:
    """A schedule by the gap that is left to the goal, 1 - best return / goal.

    The team looks up offline with this probability, and samples with half of it. No number of
    episodes is needed.

    Args:
        best_return: (R,) best team return of each run in its latest episodes, on the family's scale
            [0, 1].
        goal: The return to strive for, on the same scale and above 0.
        floor: Least probability of looking up offline, also when the goal is reached.
    """
    gap = np.clip(1.0 - best_return / goal, 0.0, 1.0)
    return Mixture(np.maximum(gap, floor), np.maximum(gap, floor) / 2)


def until_solved(best_return: np.ndarray, goal: float, floor: float, margin: float) -> Mixture:
    """A schedule that samples every action while the goal is not reached, and none when it is.

    The offline memory is asked as in `evidence`.

    Args:
        best_return: (R,) best team return of each run in its latest episodes, on the family's scale
            [0, 1].
        goal: The return to strive for, on the same scale and above 0.
        floor: Least probability of looking up offline, also when the goal is reached.
        margin: Distance to the goal, as a share of it, that counts as reached.
    """
    sample = best_return < goal * (1.0 - margin)
    return Mixture(evidence(best_return, goal, floor).offline, sample.astype(float))


def until_settled(history: np.ndarray, window: int, floor: float, margin: float) -> Mixture:
    """A schedule that samples every action until a run's own best return is beaten no more.

    It needs no goal: a run has settled once `window` episodes in a row were no better than the best
    one before them, and that one was above the lowest return by more than the margin. From then on
    the best actions are taken. While a run has not settled, the offline memory is asked every time.

    Args:
        history: (R, episodes) team returns of each run, on the family's scale [0, 1].
        window: Number of episodes that must be no better.
        floor: Probability of looking up offline once a run has settled.
        margin: Difference to the best return, and to the lowest, that counts as better.
    """
    best, since = np.zeros(len(history)), np.zeros(len(history), np.int64)
    settled = np.zeros(len(history), bool)
    for returns in history.T:
        better = returns > best + margin
        best, since = np.where(better, returns, best), np.where(better, 0, since + 1)
        settled |= (since >= window) & (best > 0)
    return Mixture(np.where(settled, floor, 1.0), np.where(settled, 0.0, 1.0))
