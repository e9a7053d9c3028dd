"""Utility of trajectories, and schedules of looking up and of exploring, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from maicc.experiments.validate import check
from maicc.memory import schedule
from maicc.memory.utility import hybrid_utility, top_k, training_utility
from maicc.types import UserError
from tests.conftest import tiny_config
from tests.teams import FAMILY

ONE = np.array([[0.5, 0.9]])


def test_hybrid_utility_of_the_paper():
    score = hybrid_utility(ONE, np.array([[1.0, 0.5]]), np.array([[0.0, 0.25]]), 0.8)
    assert np.allclose(score, [[0.5 + 0.8, 0.9 + 0.4 + 0.05]])


def test_hybrid_utility_of_the_authors_code():
    team, individual = np.array([[1.0, 0.5]]), np.array([[1.0, 1.0]])
    online = hybrid_utility(ONE, team, individual, 0.8, "code", offline=False)
    offline = hybrid_utility(ONE, team, individual, 0.8, "code", offline=True)
    assert np.allclose(online, [[0.75 + 0.8 + 0.2, 0.95 + 0.4 + 0.2]])
    assert np.allclose(offline, [[0.75 + 0.8, 0.95 + 0.4]])


def test_similarity_alone():
    assert hybrid_utility(ONE, ONE, ONE, 0.8, "similarity") is ONE


def test_training_utility_prefers_no_copies_that_are_no_better():
    similarity = np.array([[0.9, 0.9, 0.5, 0.5]])  # a near-copy from s_max on
    returns = np.array([[1.0, 2.0, 1.0, 2.0]])
    score = training_utility(similarity, returns, np.array([1.0]), s_max=0.9)
    best = top_k(score, np.arange(4)[None], 4)
    assert best.tolist() == [[2, 0, 1, 3]]


def test_training_utility_still_filters_by_return_when_all_are_copies():
    score = training_utility(np.full((1, 3), 0.99), np.array([[2.0, 0.5, 1.0]]), np.ones(1), 0.9)
    assert set(top_k(score, np.arange(3)[None], 2)[0]) == {1, 2}


def test_top_k_leaves_absent_candidates_for_last():
    score, item = np.array([[9.0, 1.0, 2.0]]), np.array([[-1, 4, 5]])
    assert top_k(score, item, 3).tolist() == [[2, 1, 0]]


def test_a_single_success_is_not_diluted():
    item = np.arange(4)[None]
    score = np.array([[1.2, 2.0, 1.3, 1.9]])
    assert top_k(score, item, 3).tolist() == [[1, 3, 2]]
    assert top_k(score, item, 3, margin=0.3).tolist() == [[1, 3, 1]]
    assert top_k(score, item, 3, margin=0.0).tolist() == [[1, 1, 1]]
    assert top_k(score, np.array([[0, -1, 2, -1]]), 3, margin=0.3).tolist() == [[2, 0, 2]]
    assert top_k(score, np.full((1, 4), -1), 3, margin=0.3).shape == (1, 3)


def test_decay():
    first, last = (
        schedule.decay(0, 200, -np.log(0.01), 2),
        schedule.decay(200, 200, -np.log(0.01), 2),
    )
    assert first.offline.tolist() == [1, 1]
    assert first.sample.tolist() == [1, 1]
    assert np.allclose(last.offline, 0.01)
    assert np.allclose(last.sample, 0.001)


def test_fixed():
    assert schedule.fixed(0.0, 5, 10, 1).offline.tolist() == [0]
    assert np.allclose(schedule.fixed(1.0, 5, 10, 1).sample, 0.001**0.5)


def test_evidence():
    mixture = schedule.evidence(np.array([0.0, 0.5, 1.0, 1.5]), goal=1.0, floor=0.02)
    assert np.allclose(mixture.offline, [1, 0.5, 0.02, 0.02])
    assert np.allclose(mixture.sample, [0.5, 0.25, 0.01, 0.01])


def test_evidence_towards_another_goal():
    mixture = schedule.evidence(np.array([0.0, 0.3, 0.6, 0.9]), goal=0.6, floor=0.0)
    assert np.allclose(mixture.offline, [1, 0.5, 0, 0])
    assert np.allclose(mixture.sample, [0.5, 0.25, 0, 0])


def test_sampling_lasts_until_the_goal_is_reached():
    mixture = schedule.until_solved(np.array([0.0, 0.94, 0.95, 1.0]), 1.0, 0.02, 0.05)
    assert mixture.sample.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert mixture.offline.round(2).tolist() == [1.0, 0.06, 0.05, 0.02]


def test_sampling_lasts_until_a_run_beats_itself_no_more():
    history = np.array(
        [
            [0.2, 0.5, 0.52, 0.5, 0.9, 0.1],  # the fifth is better once more
            [0.2, 0.5, 0.4, 0.5, 0.3, 0.9],  # three were no better: what follows changes nothing
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],  # nothing was reached yet
        ]
    )
    sample = [
        schedule.until_settled(history[:, :n], 3, 0.02, 0.05).sample.tolist() for n in range(7)
    ]
    assert sample[:5] == [[1.0, 1.0, 1.0]] * 5
    assert sample[5:] == [[1.0, 0.0, 1.0]] * 2
    assert schedule.until_settled(history, 3, 0.02, 0.05).offline.tolist() == [1.0, 0.02, 1.0]
    config = tiny_config()
    config.adapt.memory.goal = "own"
    with pytest.raises(UserError, match=r"goal=own needs adapt\.memory\.schedule=until_solved"):
        check(config, FAMILY)
