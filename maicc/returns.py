"""Return-to-go, completion and running sums: one definition each, for NumPy arrays and tensors."""

from __future__ import annotations

from typing import Any

COMPLETION_MARGIN = 0.1


def return_to_go(rewards: Any) -> Any:
    """Sum of this and all later rewards along the last dimension; padding must be 0.

    `return_to_go([1, 0, 2]) == [3, 2, 2]`
    """
    total = rewards.cumsum(-1)
    return total[..., -1:] - total + rewards


def completed(rewards: Any, return_max: float) -> Any:
    """True once the return so far is within 0.1 of the family's maximum (METHOD.md, section 2)."""
    return rewards.cumsum(-1) >= return_max - COMPLETION_MARGIN


def normalised(returns: Any, return_min: float, return_max: float) -> Any:
    """Returns on the family's scale: 0 at its minimum, 1 at its maximum, clipped."""
    return ((returns - return_min) / (return_max - return_min)).clip(0.0, 1.0)
