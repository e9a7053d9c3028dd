"""Random numbers that decide for agents, and how their actions came about."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Draws(NamedTuple):
    """Random numbers in [0, 1) of each row and step, named after what they decide."""

    memory: np.ndarray  # (rows, T) which memory is asked
    tie: np.ndarray  # (rows, T) which of several equal keys come first
    explore: np.ndarray  # (rows, T) whether the action is sampled
    action: np.ndarray  # (rows, T) which action is sampled
    order: np.ndarray  # (rows, T) the order of trajectories in memory; the first step's is used
    extra: np.ndarray  # (rows, T, draws) for the method
    target: np.ndarray  # (rows, T, targets) which targets are preferred, where teams share draws

    @classmethod
    def from_columns(cls, columns: np.ndarray, extra: int) -> Draws:
        """Names the columns (rows, T, 5 + extra + targets)."""
        memory, tie, explore, action, order = np.moveaxis(columns[:, :, :5], 2, 0)
        others, target = np.split(columns[:, :, 5:], [extra], axis=2)
        return cls(memory, tie, explore, action, order, others, target)


def sample(logits: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """Samples actions (Q,) from logits (Q, A) with one number in [0, 1) each, (Q,)."""
    total = np.exp(logits - logits.max(1, keepdims=True)).cumsum(1)
    return (total <= draw[:, None] * total[:, -1:]).sum(1)


def sample_alike(logits: np.ndarray, draw: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Samples actions so that agents with the same numbers choose alike: METHOD.md, section 12.

    Args:
        logits: Of each action, (Q, A).
        draw: Numbers in [0, 1) of each target, (Q, targets).
        target: Target of each action, (A,). Of the actions of one target the likeliest is taken.
    """
    noise = -np.log(-np.log(np.maximum(draw, np.finfo(float).tiny)))  # Gumbel's distribution
    return (logits + noise[:, target]).argmax(1)


class Choices(NamedTuple):
    """How each row's action of a step came about; kept for traces, no agent acts on it."""

    probability: np.ndarray  # (rows, A) of each legal action, by the model
    sampled: np.ndarray  # (rows,) bool, whether the action was sampled
    repeated: np.ndarray  # (rows,) slot of the own trajectory whose action was repeated; -1

    @classmethod
    def none(cls, rows: int, actions: int) -> Choices:
        """Choices of a step before any is made."""
        return cls(np.zeros((rows, actions)), np.zeros(rows, bool), np.full(rows, -1))
