"""Repeating what reached the goal: an agent's own action in the same situation."""

from __future__ import annotations

import numpy as np
import pytest

from maicc.config import DecisionConfig, MemoryConfig
from maicc.data.behaviour import chooser
from maicc.envs import BatchEnv
from maicc.memory import OfflineMemory, OnlineMemory
from maicc.models.decision import DecisionTransformer
from maicc.teams.team import Team
from maicc.types import Trajectories
from tests.teams import FAMILY, SEEDS, make_env, untrained


def memory_of(episodes: list[tuple[float, list[int], list[int]]]) -> OnlineMemory:
    """One row, with the return, the observations and the actions of each episode."""
    memory = OnlineMemory(1, 3, 0, 1)
    for value, seen, actions in episodes:
        zeros, played = np.zeros((1, 3), np.float32), np.arange(3)[None] < len(seen)
        observations = np.zeros((1, 3, 1), np.float32)
        observations[0, : len(seen), 0] = seen
        acted = np.zeros((1, 3), np.int64)
        acted[0, : len(actions)] = actions
        lived = Trajectories(observations, acted, zeros, zeros, zeros, zeros, played)
        keys = np.zeros((1, 3, 0), np.float32)
        memory.store(keys, lived, np.array([value]), np.zeros(1), np.zeros(1))
    return memory


def test_the_latest_that_reached_the_goal_is_repeated_in_the_same_situation():
    memory = memory_of(
        [
            (1.0, [5, 6, 7], [1, 2, 3]),
            (0.2, [5, 6, 7], [4, 4, 4]),  # missed the goal
            (1.0, [5, 8], [0, 5]),  # ended before step 2
        ]
    )
    slots = memory.latest(np.array([0.95]), 4)
    assert slots.tolist() == [[2, 0, -1, -1]]

    def repeated(step: int, seen: float) -> int:
        row, now = np.array([0]), np.array([[seen]], np.float32)
        return int(memory.repeat(row, slots, step, now)[0][0])

    assert repeated(0, 5.0) == 0  # of two the latest
    assert repeated(1, 6.0) == 2  # only the earlier one saw this
    assert repeated(1, 6.0004) == 2
    assert repeated(1, 6.001) == -1
    assert repeated(0, 6.0) == -1  # seen in another step
    assert repeated(2, 7.0) == 3
    assert repeated(2, 0.0) == -1  # an empty place is no situation
    assert memory.latest(np.array([np.inf]), 2).tolist() == [[-1, -1]]
    empty = OnlineMemory(2, 3, 0, 1)
    nothing = empty.latest(np.zeros(2), 2)
    actions, repeated = empty.repeat(np.arange(2), nothing, 0, np.zeros((2, 1)))
    assert actions.tolist() == repeated.tolist() == [-1, -1]


def team_of(model: DecisionTransformer, seeds: list[int] = SEEDS, **memory) -> Team:
    """A team that looks nothing up, whose dataset holds nothing."""
    nothing = Trajectories(*(np.zeros((1, 1)) for _ in range(7)))
    dataset = OfflineMemory(None, nothing, *[np.ones(1)] * 2, *[np.zeros(1)] * 3)
    return Team(FAMILY.spec, None, model, dataset, MemoryConfig(**memory), seeds)


@pytest.mark.parametrize("tokens", ["fused", "four"])
def test_a_model_reads_what_a_repeating_agent_passed_over_once_it_is_asked(tokens):
    """It acts as one that has read every step, and reads nothing while all agents repeat."""
    model = untrained(FAMILY.spec, record=2, labels="expert", tokens=tokens)
    lazy, eager = team_of(model), team_of(model)
    eager.traced = np.arange(9)
    known, elsewhere = make_env(), FAMILY.draw_tasks(6, 0)[3:]
    other = BatchEnv([FAMILY.make_env(task) for task in elsewhere], "sum", 15)
    expert = chooser(FAMILY, "expert", known)
    read = []
    for episode, env in enumerate([known, known, known, other]):
        now = env.reset([episode] * 3)
        rngs = [np.random.default_rng(run) for run in range(3)]
        while not now.done.all():
            seen = now.observations, now.action_mask
            actions = lazy.act(*seen)
            assert np.array_equal(actions, eager.act(*seen))
            asked = lazy._reading[lazy.choices.repeated[lazy._reading] < 0]
            probability = (team.choices.probability[asked] for team in (lazy, eager))
            assert np.allclose(*probability, atol=1e-5)
            read.append((episode, lazy._step, len(lazy._reading)))
            if episode == 0:
                for run in np.flatnonzero(~now.done):
                    shown = expert(run, now, rngs[run])
                    actions[run] = [shown[agent] for agent in env.rosters[run]]
            now = env.step(actions)
            for team in (lazy, eager):
                team.observe(actions, now.rewards, now.done)
    assert all(rows == 0 for episode, _, rows in read if episode in (1, 2))
    late = [rows for episode, step, rows in read if episode == 3 and step]
    assert late[0] < late[-1]  # some were asked in the middle of the episode


def test_an_action_that_is_illegal_now_is_not_repeated():
    small = DecisionConfig(width=16, layers=1, heads=2, record=2)
    team = team_of(DecisionTransformer(FAMILY.spec, small), [0])
    legal, played = np.ones((3, 6), bool), np.array([4, 4, 4])
    for reward in (3.0, 2.0):  # more than the family's highest return, and that
        team.act(np.ones((3, 8)), legal)
        team.observe(played, reward, True)
    assert team.returns.tolist() == [[3.0, 2.0]]
    assert team.act(np.ones((3, 8)), legal).tolist() == [4, 4, 4]
    team.abandon()
    legal[0, 4] = False
    actions = team.act(np.ones((3, 8)), legal)
    assert actions[0] != 4
    assert actions[1:].tolist() == [4, 4]


@pytest.mark.parametrize("replay", [True, False])
def test_a_team_that_was_shown_the_way_repeats_it(replay):
    """By a model that has learned nothing."""
    small = DecisionConfig(width=16, layers=1, heads=2, record=2)
    team = team_of(DecisionTransformer(FAMILY.spec, small), replay=replay)
    env, returns = make_env(), []
    expert = chooser(FAMILY, "expert", env)
    for episode in range(4):
        now, total = env.reset([episode] * 3), np.zeros(3)
        rngs = [np.random.default_rng(run) for run in range(3)]
        while not now.done.all():
            actions = team.act(now.observations, now.action_mask)
            if episode == 0:
                for run in np.flatnonzero(~now.done):
                    shown = expert(run, now, rngs[run])
                    actions[run] = [shown[agent] for agent in env.rosters[run]]
            now = env.step(actions)
            team.observe(actions, now.rewards, now.done)
            total += now.rewards
        returns.append(total)
    assert np.allclose(returns[0], 2.0)
    assert np.allclose(returns[1:], 2.0) == replay
