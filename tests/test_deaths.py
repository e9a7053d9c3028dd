"""The dead have no trajectory."""

from __future__ import annotations

import numpy as np

from maicc.data.alive import alive_steps, cut_at_death
from maicc.data.returns import return_to_go
from maicc.types import Trajectories


def test_an_agent_is_alive_up_to_its_last_step_with_something_to_see_or_to_choose():
    seen = np.array([[1, 1, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0], [0] * 6])
    choices = np.array([[3, 3, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [3, 1, 1, 2, 2, 2], [1] * 6])
    played = np.arange(6) < np.array([6, 6, 5, 6])[:, None]
    found = alive_steps(seen[..., None], choices > 1, played)
    # dies; waits and sees again; sees nothing but can choose until the end; never there
    assert found.sum(1).tolist() == [2, 4, 5, 1]
    assert (found == (np.arange(6) < found.sum(1)[:, None])).all()


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
