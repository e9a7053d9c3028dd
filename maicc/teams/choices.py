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

    @classmethod
    def from_columns(cls, columns: np.ndarray) -> Draws:
        """Names the columns (rows, T, 5 + draws)."""
        memory, tie, explore, action, order = np.moveaxis(columns[:, :, :5], 2, 0)
        return cls(memory, tie, explore, action, order, extra=columns[:, :, 5:])


class Choices(NamedTuple):
    """How each row's action of a step came about; kept for traces, no agent acts on it."""

    probability: np.ndarray  # (rows, A) of each legal action, by the model
    sampled: np.ndarray  # (rows,) bool, whether the action was sampled
    repeated: np.ndarray  # (rows,) slot of the own trajectory whose action was repeated; -1

    @classmethod
    def none(cls, rows: int, actions: int) -> Choices:
        """Choices of a step before any is made."""
        return cls(np.zeros((rows, actions)), np.zeros(rows, bool), np.full(rows, -1))
