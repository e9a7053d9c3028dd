"""Statistics against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from maicc.evaluation import stats
from maicc.evaluation.stats import (
    bootstrap_ci95,
    crossed_ci95,
    episodes_to,
    found_and_kept,
    iqm,
    mean_ci95,
    probability_of_improvement,
    summary,
)


def test_mean_and_interval():
    mean, half = mean_ci95(np.array([1.0, 2.0, 3.0, 4.0]))
    assert mean == 2.5
    assert half == pytest.approx(1.96 * np.sqrt(5 / 3) / 2)
    assert mean_ci95(np.array([7.0])) == (7.0, 0.0)


def test_summary():
    returns = np.stack([np.arange(20.0), np.arange(20.0) + 2])
    assert summary(returns) == pytest.approx(
        {"first3": 2.0, "first10": 5.5, "last10": 15.5, "last": 20.0, "ci95": 1.96}
    )


def test_iqm_is_the_mean_of_the_middle_half():
    assert iqm(np.array([-100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 100.0])) == 3.5


def test_bootstrap_resamples_within_strata():
    values, strata = np.array([0.0, 0.0, 10.0, 10.0]), np.array([0, 0, 1, 1])
    assert bootstrap_ci95(values, strata, np.mean) == (5.0, 5.0)  # nothing varies inside a stratum
    low, high = bootstrap_ci95(values, np.zeros(4), np.mean)
    assert low < 5 < high
    rng = np.random.default_rng(0)
    sample = rng.normal(3, 2, 200)
    low, high = bootstrap_ci95(sample, np.zeros(200), np.mean)
    assert (high - low) / 2 == pytest.approx(mean_ci95(sample)[1], rel=0.1)
    assert bootstrap_ci95(sample, np.zeros(200)) == bootstrap_ci95(sample, np.zeros(200))


def test_the_crossed_bootstrap_resamples_models_and_tasks():
    runs = 50
    models, tasks = np.repeat([0, 1], runs), np.tile(np.arange(runs), 2)
    values = np.repeat([0.0, 10.0], runs)  # two models, whose runs are all alike
    # both models are drawn as the same one in half of the resamples
    assert crossed_ci95(values, models, tasks, np.mean) == (0.0, 10.0)
    low, high = bootstrap_ci95(values, np.zeros(2 * runs), np.mean)  # as if runs were independent
    assert (low, high) == (pytest.approx(4.0, abs=0.2), pytest.approx(6.0, abs=0.2))
    rng = np.random.default_rng(0)
    effect, noise = rng.normal(0, 2, 30), rng.normal(0, 1, (30, 20))
    values = effect[:, None] + noise
    many, few = np.repeat(np.arange(30), 20), np.tile(np.arange(20), 30)
    spread = mean_ci95(values.mean(1))[1]  # the interval of 30 independent numbers
    for models, tasks in ((many, few), (few, many)):
        low, high = crossed_ci95(values.ravel(), models, tasks, np.mean)
        assert (high - low) / 2 == pytest.approx(spread, rel=0.1)


def test_the_crossed_bootstrap_covers_the_mean_of_all_tasks(monkeypatch):
    """Of five models that differ little on ten tasks that differ much, intervals hold it."""
    monkeypatch.setattr(stats, "RESAMPLES", 400)
    rng, held = np.random.default_rng(0), 0
    models, tasks = np.repeat(np.arange(5), 10), np.tile(np.arange(10), 5)
    for _ in range(200):
        values = rng.normal(0, 1, 10)[tasks] + rng.normal(0, 0.2, 50)
        low, high = crossed_ci95(values, models, tasks, np.mean)
        held += low <= 0 <= high
    assert held / 200 > 0.83  # a percentile bootstrap of ten tasks falls short of 95 %


def test_the_crossed_bootstrap_takes_tasks_with_unequal_numbers_of_runs():
    models, tasks = np.array([0, 0, 0, 1, 1, 1]), np.array(list("abaaba"))
    by_model = np.array([0.0, 0.0, 0.0, 6.0, 6.0, 6.0])  # models are drawn alike half of the time
    assert crossed_ci95(by_model, models, tasks, np.mean) == (0.0, 6.0)
    by_task = np.array([3.0, 0.0, 3.0, 3.0, 0.0, 3.0])  # drawn alike, too; both are drawn: 2.0
    assert crossed_ci95(by_task, models, tasks, np.mean) == (0.0, 3.0)
    assert crossed_ci95(by_task, models, tasks, np.median) == (0.0, 3.0)
    alike = crossed_ci95(np.full(6, 2.5), models, tasks, np.mean)
    assert alike == (2.5, 2.5)


def test_the_crossed_bootstrap_of_one_model_resamples_tasks_and_their_runs():
    values, tasks = np.array([0.0, 1.0, 10.0, 14.0]), np.array([0, 0, 1, 1])
    # one resample in 64 is of the lowest run alone, and 4 of it three times and of the next once
    assert crossed_ci95(values, np.zeros(4), tasks, np.mean) == (0.25, 13.0)


def test_bootstrap_of_an_array_is_that_of_its_numbers():
    values = np.random.default_rng(0).random((40, 3))
    low, high = bootstrap_ci95(values, np.zeros(40), np.mean)
    for i in range(3):
        assert (low[i], high[i]) == pytest.approx(
            bootstrap_ci95(values[:, i], np.zeros(40), np.mean)
        )


def test_probability_of_improvement_is_within_strata():
    x, y, strata = np.array([1.0, 2.0, 0.0, 0.0]), np.array([1.0, 0.0, 5.0, 0.0]), [0, 0, 1, 1]
    # stratum 0: 1 ties 1, beats 0; 2 beats both; stratum 1: 0 loses to 5 and ties 0, twice
    expected = ((0.5 + 1 + 1 + 1) / 4 + (0 + 0.5 + 0 + 0.5) / 4) / 2
    assert probability_of_improvement(x, y, np.array(strata)) == expected


def test_episodes_to_a_threshold():
    curve = np.array([0, 0, 1, 1, 1, 1, 1, 0.0])
    assert episodes_to(curve, 0.6) == 5
    assert episodes_to(curve, 1.0) == 7
    assert episodes_to(curve, 1.1) is None
    assert episodes_to(curve[:4], 0.0) is None


def test_how_soon_a_task_is_solved_and_how_often_from_then_on():
    solved = np.array([[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 1]], bool)
    episode, share = found_and_kept(solved)
    assert episode == 2  # two of four runs
    assert share == pytest.approx((1 / 2 + 1 / 3) / 2)  # the last run has no episode left
    assert found_and_kept(solved[1:2]) == (None, None)
    assert found_and_kept(solved[:2])[0] == 2
    assert found_and_kept(solved[1:4][[0, 0, 1]])[0] is None
