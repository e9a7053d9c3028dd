"""The dead have no trajectory."""

from __future__ import annotations

import numpy as np

from maicc.data.alive import alive_up_to_last, cut_at_death
from maicc.data.episodes import alive_by_sight
from maicc.data.returns import return_to_go
from maicc.types import Trajectories


def test_alive_by_sight_lasts_to_the_last_step_with_something_to_see_or_to_choose():
    seen = np.array([[1, 1, 0, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0], [0] * 7])
    choices = np.array([[3, 3, 1, 1, 1, 1, 1], [1] * 7, [3, 1, 1, 2, 2, 2, 2], [1] * 7])
    legal = np.arange(3) < choices[..., None]
    alive = alive_by_sight(seen[:, :, None, None], legal[:, :, None], np.array([6, 6, 5, 6]))
    # dies; waits and sees again; sees nothing but can choose until the end; never there
    assert alive.shape == (4, 6, 1)
    assert alive[..., 0].sum(1).tolist() == [2, 4, 5, 1]
    assert (alive[..., 0] == (np.arange(6) < alive.sum(1))).all()


def test_an_agent_lives_up_to_its_last_living_step_and_at_least_one():
    alive = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]], bool)
    assert alive_up_to_last(alive).sum(1).tolist() == [2, 3, 1]


def episode(rewards: list[list[float]], length: int) -> Trajectories:
    reward = np.array(rewards, np.float32)
    rows, T = reward.shape
    steps = np.arange(T)
    return Trajectories(
        observations=np.ones((rows, T, 2), np.float32),
        actions=np.ones((rows, T), np.int64),
        rewards=reward,
        done=np.tile(steps == length - 1, (rows, 1)).astype(np.float32),
        completed=(reward.cumsum(1) >= 2).astype(np.float32),
        return_to_go=return_to_go(reward),
        step_mask=np.tile(steps < length, (rows, 1)),
    )


def test_after_death_follows_the_outcome_of_the_whole_episode():
    team = episode([[0, 1, 0, 0.5, 0.5, 0]] * 2, 5)
    there = np.arange(6) < np.array([[5], [2]])
    cut = cut_at_death(team, there)
    for name in ("rewards", "done", "return_to_go"):  # who lives to the end: as it was
        assert np.array_equal(getattr(cut, name)[0], getattr(team, name)[0]), name
    assert cut.step_mask.tolist() == there.tolist()
    assert cut.rewards[1].tolist() == [0, 2, 0, 0, 0, 0]
    assert cut.done[1].tolist() == [0, 1, 0, 0, 0, 0]
    assert cut.completed[1].tolist() == [0, 1, 0, 0, 0, 0]
    assert np.array_equal(return_to_go(cut.rewards)[there], team.return_to_go[there])
