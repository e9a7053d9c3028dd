from __future__ import annotations

import numpy as np
import pytest

from maicc.config import MaiccAdapt
from maicc.envs import get_family
from maicc.evaluation.adapt import adapt
from maicc.evaluation.trained import load_folder
from maicc.teams.lookups import DIAGNOSTICS, LookupStats, as_json, first_and_last, nearest_tasks


def test_known_counts():
    found = LookupStats(2, 3)
    nan = np.nan
    found.add(
        np.array([0, 0, 1]),
        np.array([True, False, True]),
        np.array([[1.0, 0.5], [0.5, nan], [0.0, 1.0]]),
        np.array([[0, 2], [-1, -1], [1, 1]]),
    )
    near = np.array([[True, False, False], [False, True, True]])
    offline, nearest, gap = found.diagnostics(near, 2.0)
    assert offline == pytest.approx(2 / 3)
    assert nearest == pytest.approx(3 / 4)  # one of run 0's two, both of run 1's
    assert gap == pytest.approx(2.0 * (1 - 3 / 5))
    unknown = found.diagnostics(np.zeros((2, 3), bool), 2.0)
    assert np.isnan(unknown[1])
    assert unknown[0] == offline
    assert np.isnan(LookupStats(2, 3).diagnostics(near, 2.0)).all()


def test_nearest_tasks_of_a_board_and_of_a_battle():
    family = get_family("lbf_7x7")
    stored = family.training_tasks
    tasks = [family.task(size=7, food=[1, 2], max_steps=15), stored[4]]
    near = nearest_tasks(family, tasks, stored)
    names = np.array([task.name for task in stored])
    assert names[near[0]].tolist() == ["food_1_1", "food_1_3"]
    assert names[near[1]].tolist() == [stored[4].name]
    smac = get_family("smac_all")
    held_out = next(task for task in smac.held_out_tasks if task.name.startswith("terran_9v9"))
    near = nearest_tasks(smac, [held_out], smac.training_tasks)[0]
    found = [task.name for task, is_near in zip(smac.training_tasks, near, strict=True) if is_near]
    assert found == ["terran_10v11"]


def test_adaptation_says_what_was_retrieved(tiny_run):
    family = get_family("lbf_7x7")
    result = adapt(
        load_folder(tiny_run), family, family.draw_tasks(2, 0), MaiccAdapt(episodes=3), 0
    )
    shares = result["retrieval"]
    assert set(shares) == set(DIAGNOSTICS)
    assert shares["offline"][0] == 1.0  # nothing of one's own yet
    assert all(len(values) == 3 for values in shares.values())
    assert all(0 <= value <= 1 for value in shares["nearest_task"])
    assert all(0 <= value <= 2 for value in shares["return_gap"])


def test_first_and_last_ten():
    rows = np.full((3, 12), np.nan)
    rows[0] = np.arange(12) / 11
    rows[1, :5] = 0.5
    means = first_and_last([{"retrieval": as_json(rows)}, {"retrieval": as_json(rows)}, {}])
    assert means == {"offline": [0.4091, 0.5909], "nearest_task": [0.5, 0.5]}
    rows[1, :2] = np.nan
    assert as_json(rows)["nearest_task"][:3] == [None, None, 0.5]


def test_an_episode_counts_for_the_nearest_tasks_as_much_as_it_asks_the_dataset():
    rows = np.full((3, 20), np.nan)
    rows[0] = [0.75, 0.25] + [0.0] * 18
    rows[1, :3] = 1.0, 0.0, 1.0
    means = first_and_last([{"retrieval": as_json(rows)}])
    assert means["nearest_task"] == [0.75, None]
