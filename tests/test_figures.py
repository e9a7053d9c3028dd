from __future__ import annotations

import numpy as np
import pytest

from maicc.report import figures


def test_labels_that_would_overlap_are_moved_apart_around_their_middle():
    assert figures._separate(np.array([1.0, 1.0, 1.0]), 0.1) == pytest.approx([0.9, 1.0, 1.1])
    assert figures._separate(np.array([2.0, 0.0]), 0.1) == pytest.approx([2.0, 0.0])
    assert figures._separate(np.array([1.0, 0.0, 1.02]), 0.1) == pytest.approx([0.96, 0.0, 1.06])


def test_the_running_mean_is_of_what_has_been_played():
    returns = np.arange(14.0).reshape(2, 7)
    expected = [[row[max(e - 4, 0) : e + 1].mean() for e in range(7)] for row in returns]
    assert figures._running_mean(returns) == pytest.approx(np.array(expected))


def test_every_curve_is_named_where_it_ends_and_what_does_not_adapt_at_its_mean():
    rises, noise = np.linspace(0, 2, 20) * np.ones((4, 1)), np.tile([0.0, 1.0], (4, 10))
    drawn = figures.benchmark_curves({"rises": rises, "flat": noise}, {"flat"}, 2.0)
    assert f"rises {rises[0, -5:].mean():.2f}" in drawn
    assert "flat 0.50" in drawn
    assert drawn.count("stroke-dasharray") > figures.benchmark_curves(
        {"rises": rises, "flat": noise}, (), 2.0
    ).count("stroke-dasharray")
