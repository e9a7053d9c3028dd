"""Return-to-go, completion and scales of the return, for NumPy arrays and tensors."""

from __future__ import annotations

from typing import Any

# of the way from the lowest return to the highest: 0.1 on LBF. A little more than 5 %, so that a
# return right there counts in any precision
COMPLETION_MARGIN = 0.05 + 1e-6


def return_to_go(rewards: Any) -> Any:
    """Sum of this and all later rewards along the last dimension; padding must be 0.

    `return_to_go([1, 0, 2]) == [3, 2, 2]`
    """
    total = rewards.cumsum(-1)
    return total[..., -1:] - total + rewards


def solved(total: Any, bounds: tuple[float, float]) -> Any:
    """True where a return is at the family's maximum, to within the margin."""
    low, high = bounds
    return total >= high - COMPLETION_MARGIN * (high - low)


def completed(total: Any, done: Any, bounds: tuple[float, float]) -> Any:
    """True once the return so far is at the maximum (METHOD.md, section 2).

    A return that may be negative can still fall. In such families only the end of an episode tells.

    Args:
        total: Return so far.
        done: Whether the episode has ended.
        bounds: Lowest and highest return of the family.
    """
    near = solved(total, bounds)
    return near & done if bounds[0] < 0 else near


def normalised(returns: Any, return_min: float, return_max: float) -> Any:
    """Maps returns to the family's scale: 0 at its minimum, 1 at its maximum, clipped."""
    return ((returns - return_min) / (return_max - return_min)).clip(0.0, 1.0)


def share_of_maximum(returns: Any, bounds: tuple[float, float]) -> float:
    """Mean return as a share of the way from the lowest to the highest return."""
    low, high = bounds
    return float((returns.mean() - low) / (high - low))
