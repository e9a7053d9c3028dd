"""When to look things up offline and when to explore: METHOD.md, sections 7 and 12."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Mixture(NamedTuple):
    """Probabilities for each run, (R,)."""

    offline: np.ndarray  # of retrieving from the offline memory
    sample: np.ndarray  # of sampling the action instead of taking the best


def decay(episode: int, episodes: int, rate: float, runs: int) -> Mixture:
    """The paper's: beta_t = exp(-rate t / T); sampling with 0.001^(t / T), the authors' code."""
    done = episode / episodes
    return Mixture(np.full(runs, np.exp(-rate * done)), np.full(runs, 0.001**done))


def fixed(beta: float, episode: int, episodes: int, runs: int) -> Mixture:
    """A share that never changes: 0 is online only, 1 offline only."""
    return Mixture(np.full(runs, beta), np.full(runs, 0.001 ** (episode / episodes)))


def evidence(best_return: np.ndarray, goal: float, floor: float) -> Mixture:
    """Needs no number of episodes: what is missing to the goal says how much to explore.

    Args:
        best_return: (R,) best team return of each run lately, on the family's scale [0, 1].
        goal: The return to strive for, on the same scale and above 0.
        floor: Least probability of looking up offline, also when the goal is reached.
    """
    gap = np.clip(1.0 - best_return / goal, 0.0, 1.0)
    return Mixture(np.maximum(gap, floor), np.maximum(gap, floor) / 2)
