from __future__ import annotations

import numpy as np
import pytest

from maicc.memory.trust import Trust

NONE = np.nan


def episode(trust, shown, returned):
    """One in which every row is shown `shown` (Q, K) pairs of promise and task."""
    trust.begin()
    promise, task = np.moveaxis(np.array(shown, float), -1, 0)
    trust.follow(np.arange(len(promise)), promise, task.astype(int))
    trust.settle(np.array(returned, float))


def of_all(trust, rows=1, tasks=3):
    return trust.of(np.arange(rows), np.tile(np.arange(tasks), (rows, 1)))


def test_trust_is_what_was_returned_for_what_was_promised():
    trust = Trust(1, 3, prior=0.5)
    assert of_all(trust).tolist() == [[1, 1, 1]]
    # half of what is shown is of task 0, a quarter of task 1, a quarter the agent's own
    episode(trust, [[(1.0, 0), (0.8, 0), (0.6, 1), (0.1, -1)]], [0.2])
    one, two = (0.5 + 0.5 * 0.2) / (0.5 + 0.45), (0.5 + 0.25 * 0.2) / (0.5 + 0.15)
    assert np.allclose(of_all(trust), [[one, two, 1.0]])
    episode(trust, [[(1.0, 0), (NONE, -1)]], [0.4])  # all that there was
    one = (0.5 + 0.5 * 0.2 + 0.4) / (0.5 + 0.45 + 1.0)
    assert np.allclose(of_all(trust), [[one, two, 1.0]])


def test_a_promise_that_was_exceeded_is_believed_and_no_more():
    trust = Trust(1, 3, prior=0.5)
    episode(trust, [[(0.4, 2)]], [0.9])
    assert of_all(trust).tolist() == [[1, 1, 1]]


@pytest.mark.parametrize(("prior", "expected"), [(np.inf, 1.0), (0.0, 0.25)])
def test_the_prior_may_be_endless_or_nothing(prior, expected):
    trust = Trust(1, 3, prior)
    episode(trust, [[(0.8, 1)]], [0.2])
    assert np.allclose(of_all(trust), [[1, expected, 1]])


def test_agents_doubt_for_themselves():
    trust = Trust(2, 3, prior=0.0)
    episode(trust, [[(1.0, 0)], [(1.0, 2)]], [0.5, 0.25])
    assert np.allclose(of_all(trust, 2), [[0.5, 1, 1], [1, 1, 0.25]])


def test_an_episode_that_was_broken_off_leaves_nothing():
    trust = Trust(1, 3, prior=0.0)
    trust.begin()
    trust.follow(np.array([0]), np.ones((1, 2)), np.array([[0, 1]]))
    episode(trust, [[(1.0, 2)]], [0.5])
    assert np.allclose(of_all(trust), [[1, 1, 0.5]])


def test_the_state_is_that_of_any_episode_before():
    trust, after_one = Trust(1, 3, 0.1), Trust(1, 3, 0.1)
    for e, returned in enumerate((0.5, 0.1)):
        episode(trust, [[(1.0, e), (1.0, 2)]], [returned])
        if e == 0:
            wanted = of_all(trust)
    after_one.load_state(trust.state(1))
    assert np.array_equal(of_all(after_one), wanted)
    episode(after_one, [[(1.0, 1), (1.0, 2)]], [0.1])
    assert np.array_equal(of_all(after_one), of_all(trust))
