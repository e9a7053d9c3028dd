"""Numbers for reports, from returns of shape (runs, episodes)."""

from __future__ import annotations

import numpy as np


def mean_ci95(values: np.ndarray) -> tuple[float, float]:
    """Mean over the first dimension's runs and half the width of its normal 95 % interval."""
    n = len(values)
    spread = float(np.std(values, ddof=1)) if n > 1 else 0.0
    return float(np.mean(values)), 1.96 * spread / n**0.5


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
