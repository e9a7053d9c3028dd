from __future__ import annotations

import numpy as np
import pytest
import torch

from maicc.data.returns import completed, normalised, return_to_go, share_of_maximum, solved


def test_return_to_go():
    assert return_to_go(np.array([1.0, 0.0, 2.0])).tolist() == [3, 2, 2]
    batch = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]])
    assert return_to_go(batch).tolist() == [[3, 2, 2], [1, 1, 0]]


def test_completed_from_within_a_twentieth_of_the_way_to_the_maximum():
    rewards, done = np.array([1.0, 0.85, 0.1, 0.0]), np.array([False, False, False, True])
    assert completed(rewards.cumsum(), done, (0.0, 2.0)).tolist() == [False, False, True, True]
    assert completed(rewards.cumsum() / 10, done, (0.0, 0.2)).tolist() == [0, 0, 1, 1]


def test_where_returns_can_fall_only_the_end_completes():
    rewards, done = np.array([-1.0, -2.0, -2.0]), np.array([False, False, True])
    assert completed(rewards.cumsum(), done, (-50.0, -5.0)).tolist() == [False, False, True]
    assert completed(rewards.cumsum(), done, (-50.0, -1.0)).tolist() == [False, False, False]


def test_normalised():
    assert normalised(np.array([-1.0, 0.0, 5.0, 11.0]), 0.0, 10.0).tolist() == [0, 0, 0.5, 1]


def test_share_of_the_way_from_the_lowest_to_the_highest():
    assert share_of_maximum(np.array([-50.0, -5.0, -5.0]), (-50.0, -5.0)) == pytest.approx(2 / 3)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.0, 20.0), (-10.0, 10.0), (0.0, 100.0)])
def test_a_return_right_at_the_margin_is_solved_in_any_precision(kind, bounds):
    low, high = bounds
    at = np.array([high - 0.05 * (high - low), high - 0.0501 * (high - low)], kind)
    assert solved(at, bounds).tolist() == [True, False]
