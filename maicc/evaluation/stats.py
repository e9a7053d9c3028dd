"""Statistics for reports, from returns of shape (runs, episodes)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import trim_mean

from maicc.streams import Stream

RESAMPLES = 2000  # of a bootstrap
WINDOW = 5  # episodes of the running mean that is compared with a threshold


def mean_ci95(values: np.ndarray) -> tuple[Any, Any]:
    """Mean over runs (R, ...), and half the width of its normal 95 % interval, as in the paper."""
    n, mean = len(values), values.mean(0)
    spread = values.std(0, ddof=1) if n > 1 else np.zeros_like(mean)
    return mean, 1.96 * spread / n**0.5


def iqm(values: np.ndarray, axis: int | None = None) -> Any:
    """Interquartile mean along an axis, or of all values: the mean of the middle half."""
    return trim_mean(values, 0.25, axis=axis)


def bootstrap_ci95(
    values: np.ndarray,
    strata: np.ndarray,
    statistic: Callable[[np.ndarray, int], Any] = iqm,
) -> tuple[Any, Any]:
    """Computes a 95 % interval by a percentile bootstrap of runs within their stratum.

    Args:
        values: One value of each run, or one row, (R, ...).
        strata: Stratum of each run, (R,).
        statistic: Statistic along an axis, whose interval is wanted.

    Returns:
        The lower and the upper end, numbers or arrays, as the statistic is.
    """
    rng = np.random.default_rng([0, Stream.BOOTSTRAP])
    groups = [np.flatnonzero(strata == s) for s in np.unique(strata)]
    drawn = [
        np.concatenate([g[rng.integers(len(g), size=len(g))] for g in groups])
        for _ in range(RESAMPLES)
    ]
    return _interval(values, drawn, statistic)


def crossed_ci95(
    values: np.ndarray,
    models: np.ndarray,
    tasks: np.ndarray,
    statistic: Callable[[np.ndarray, int], Any] = iqm,
) -> tuple[Any, Any]:
    """Computes a 95 % interval by a percentile bootstrap of models and of tasks.

    All models play the same tasks, so that neither the runs of one model nor the runs on one task
    are independent. Models and tasks are therefore resampled each for itself (Owen 2007, the
    pigeonhole bootstrap), and then the runs of each drawn model on each drawn task.

    Args:
        values: One value of each run, or one row, (R, ...).
        models: Model of each run, (R,).
        tasks: Task of each run, (R,). A model may have several runs on one task.
        statistic: Statistic along an axis, whose interval is wanted.

    Returns:
        The lower and the upper end, numbers or arrays, as the statistic is.
    """
    rng = np.random.default_rng([0, Stream.BOOTSTRAP])
    model, task = (np.unique(of, return_inverse=True)[1] for of in (models, tasks))
    n_models, n_tasks = model.max() + 1, task.max() + 1
    cell = model * n_tasks + task  # of each run
    run = cell.argsort(kind="stable")
    count = np.bincount(cell, minlength=n_models * n_tasks)
    first = count.cumsum() - count
    drawn = []
    for _ in range(RESAMPLES):
        rows = rng.integers(n_models, size=(n_models, 1))
        chosen = (rows * n_tasks + rng.integers(n_tasks, size=n_tasks)).ravel()
        per_run = chosen.repeat(count[chosen])
        within = (rng.random(len(per_run)) * count[per_run]).astype(np.int64)
        drawn.append(run[first[per_run] + within])
    return _interval(values, drawn, statistic)


def _interval(
    values: np.ndarray, drawn: Sequence[np.ndarray], statistic: Callable[[np.ndarray, int], Any]
) -> tuple[Any, Any]:
    """Finds the ends of the middle 95 % of a statistic of drawn runs, in samples of any sizes."""
    by_size: dict[int, list[np.ndarray]] = {}
    for runs in drawn:
        by_size.setdefault(len(runs), []).append(runs)
    resampled = [statistic(values[np.stack(samples)], 1) for samples in by_size.values()]
    low, high = np.percentile(np.concatenate(resampled), [2.5, 97.5], axis=0)
    return (float(low), float(high)) if np.ndim(low) == 0 else (low, high)


def probability_of_improvement(x: np.ndarray, y: np.ndarray, strata: np.ndarray) -> float:
    """Chance that a run of x is above one of y (Agarwal et al. 2021).

    It is computed within each stratum, ties counted half, and averaged over strata.

    Args:
        x: One value of each run, (R,).
        y: Those of another method, (R,).
        strata: Stratum of each run, (R,), the same for both methods.
    """
    chances = []
    for s in np.unique(strata):
        difference = x[strata == s][:, None] - y[strata == s]
        chances.append((np.sign(difference) / 2 + 0.5).mean())
    return float(np.mean(chances))


def episodes_to(curve: np.ndarray, threshold: float) -> int | None:
    """First episode, counted from 1, at which the mean of the last 5 reaches `threshold`.

    None if there is no such episode.
    """
    if len(curve) < WINDOW:
        return None
    running = np.convolve(curve, np.ones(WINDOW) / WINDOW, "valid")
    reached = np.flatnonzero(running >= threshold - 1e-9)
    return int(reached[0]) + WINDOW if len(reached) else None


def found_and_kept(solved: np.ndarray) -> tuple[int | None, float | None]:
    """Tells how soon runs solve their task for the first time, and how often from then on.

    Args:
        solved: (runs, episodes) bool.

    Returns:
        First, the episode, counted from 1, by which half of the runs have solved their task once;
        None if fewer ever do. Second, the share of a run's episodes after its first solved one that
        are solved too, as the mean over runs; None if no run has such episodes.
    """
    first = np.where(solved.any(1), solved.argmax(1), solved.shape[1])
    half = int(np.sort(first)[(len(first) - 1) // 2])
    later_shares = [
        row[at + 1 :].mean() for row, at in zip(solved, first, strict=True) if at + 1 < len(row)
    ]
    episode = half + 1 if half < solved.shape[1] else None
    return episode, float(np.mean(later_shares)) if later_shares else None


def summary(returns: np.ndarray) -> dict[str, float]:
    """Mean returns of the first three, first ten, last ten and last episodes.

    `ci95` is half the width of the 95 % interval of the last ten's.
    """
    last10, ci95 = mean_ci95(returns[:, -10:].mean(1))
    return {
        "first3": float(returns[:, :3].mean()),
        "first10": float(returns[:, :10].mean()),
        "last10": float(last10),
        "last": float(returns[:, -1].mean()),
        "ci95": float(ci95),
    }
