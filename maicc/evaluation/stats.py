"""Numbers for reports, from returns of shape (runs, episodes)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import trim_mean

WINDOW = 5  # episodes of the running mean that a threshold is held against


def mean_ci95(values: np.ndarray) -> tuple[float, float]:
    """Mean over runs and half the width of its normal 95 % interval, as in the paper."""
    n = len(values)
    spread = float(np.std(values, ddof=1)) if n > 1 else 0.0
    return float(np.mean(values)), 1.96 * spread / n**0.5


def iqm(values: np.ndarray) -> float:
    """Interquartile mean: the mean of the middle half."""
    return float(trim_mean(values, 0.25, axis=None))


def bootstrap_ci95(
    values: np.ndarray,
    strata: np.ndarray,
    statistic: Callable[[np.ndarray], float] = iqm,
    seed: int = 0,
    resamples: int = 2000,
) -> tuple[float, float]:
    """Stratified percentile bootstrap: runs (R,) are resampled within their stratum (R,)."""
    rng = np.random.default_rng([seed, 60])
    groups = [np.flatnonzero(strata == s) for s in np.unique(strata)]
    found = []
    for _ in range(resamples):
        chosen = np.concatenate([rng.choice(group, len(group)) for group in groups])
        found.append(statistic(values[chosen]))
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def probability_of_improvement(x: np.ndarray, y: np.ndarray, strata: np.ndarray) -> float:
    """Chance that a run of x (R,) is above one of y (R,), ties counted half, within each stratum
    (R,), which is the same for both; the mean over strata (Agarwal et al. 2021)."""
    found = []
    for s in np.unique(strata):
        difference = x[strata == s][:, None] - y[strata == s]
        found.append((np.sign(difference) / 2 + 0.5).mean())
    return float(np.mean(found))


def regret(returns: np.ndarray, return_max: float) -> np.ndarray:
    """Cumulative regret of each run against the maximum: (R,)."""
    return (return_max - returns).sum(1)


def episodes_to(curve: np.ndarray, threshold: float) -> int | None:
    """First episode, from 1, at which the mean of the last 5 reaches `threshold`; None if never."""
    if len(curve) < WINDOW:
        return None
    running = np.convolve(curve, np.ones(WINDOW) / WINDOW, "valid")
    reached = np.flatnonzero(running >= threshold - 1e-9)
    return int(reached[0]) + WINDOW if len(reached) else None


def found_and_kept(solved: np.ndarray) -> tuple[int | None, float | None]:
    """How soon teams solve their task for the first time, and how often they do from then on.

    Args:
        solved: (runs, episodes) bool.

    Returns:
        The episode, from 1, by which half of the runs have solved it once, None if fewer ever do;
        and the share solved of the episodes after a run's first one, the mean over runs, None
        where there are none.
    """
    first = np.where(solved.any(1), solved.argmax(1), solved.shape[1])
    half = int(np.sort(first)[(len(first) - 1) // 2])
    after = [
        row[at + 1 :].mean() for row, at in zip(solved, first, strict=True) if at + 1 < len(row)
    ]
    found = half + 1 if half < solved.shape[1] else None
    return found, float(np.mean(after)) if after else None


def summary(returns: np.ndarray) -> dict[str, float]:
    """Means of the first and last ten episodes and of the last; the interval is the last ten's."""
    last10, ci95 = mean_ci95(returns[:, -10:].mean(1))
    return {
        "first3": float(returns[:, :3].mean()),
        "first10": float(returns[:, :10].mean()),
        "last10": last10,
        "last": float(returns[:, -1].mean()),
        "ci95": ci95,
    }
