"""Foraging with hidden levels, and beside a hidden kind of partner."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from maicc.data.behaviour import play
from maicc.envs import batch_env, get_family, with_partners
from maicc.envs.games.lbf_levels import Levels, game, lifters
from maicc.envs.games.lbf_partners import PARTNER, Partners, partner
from maicc.envs.games.ways import cells_beside, distance
from maicc.types import Task, UserError

LEVELS, PARTNERS = get_family("lbf_levels"), get_family("lbf_partners")


@pytest.mark.parametrize("family", [LEVELS, PARTNERS], ids=lambda family: family.name)
def test_the_expert_is_near_the_top_and_random_agents_are_not(family):
    tasks = [*family.training_tasks[:6], *family.held_out_tasks[:6]]
    for policy, low, high in (("expert", 0.9, 1.0), ("random", 0.0, 0.1)):
        seeds = [(3, episode) for episode in range(8)]
        returns = np.concatenate([play(family, t, 0.0, seeds, policy).returns for t in tasks])
        assert low <= returns.mean() <= high
        assert returns.max() <= 1 + 1e-6


def test_one_pair_alone_can_lift_the_heavy_food():
    for task in [*LEVELS.training_tasks, *LEVELS.held_out_tasks]:
        levels, heavy = task.parameters["levels"], task.parameters["heavy"]
        pairs = [
            pair
            for pair in combinations(range(4), 2)
            if sum(levels[i] for i in pair) >= heavy
            and sum(levels) - sum(levels[i] for i in pair) >= sum(levels) - heavy
        ]
        assert pairs == lifters(levels, heavy)
        assert len(pairs) == 1


def test_levels_are_not_observed():
    """The same pair is right, but with other levels: nothing that is seen tells them apart."""
    one, other = Levels([5, 2, 1, 1], 7, 9), Levels([4, 3, 1, 1], 7, 9)
    for seed in range(5):
        seen, also = one.reset(seed=seed)[0], other.reset(seed=seed)[0]
        for agent in one.possible_agents:
            np.testing.assert_array_equal(seen[agent], also[agent])


def test_no_held_out_task_is_the_game_of_another_task():
    known = {game(task.parameters) for task in LEVELS.training_tasks}
    new = {game(task.parameters) for task in LEVELS.held_out_tasks}
    assert len(new) == len(LEVELS.held_out_tasks)
    assert not known & new
    possible = {
        game({"levels": levels, "heavy": heavy})
        for levels, heavy in product(product(range(1, 6), repeat=4), range(2, 11))
        if 2 * heavy > sum(levels) and len(lifters(levels, heavy)) == 1
    }
    assert (len(known), len(possible)) == (251, 444)  # as the family's page says


def test_tasks_of_one_game_play_alike():
    """Training holds games twice, with other levels: what is played in one is so in the other."""
    first: dict[tuple[int, ...], Task] = {}
    again = [(first.setdefault(game(t.parameters), t), t) for t in LEVELS.training_tasks]
    again = [(one, other) for one, other in again if one is not other]
    assert len(again) > 10
    seeds = [(5, episode) for episode in range(6)]
    for one, other in again[:10]:
        played, also = (play(LEVELS, task, 0.5, seeds, "expert") for task in (one, other))
        np.testing.assert_array_equal(played.actions, also.actions)
        np.testing.assert_allclose(played.rewards, also.rewards, atol=1e-6)
        assert played.rewards.any()


def lift(env: Levels, pair: tuple[int, int]) -> float:
    """Puts the pair beside the heavy food and the others beside the light one; all load."""
    env.reset(seed=0)
    others = [i for i in range(4) if i not in pair]
    for food, level in env.foods.items():
        team = pair if level == env.game.heavy else others
        for i, cell in zip(team, cells_beside(food, [env.positions[i] for i in team]), strict=True):
            env.game.players[i].position = cell
    env.game._gen_valid_moves()
    return sum(env.step(dict.fromkeys(env.possible_agents, 5))[1].values())


def test_the_right_pair_clears_the_board_and_is_paid_1():
    paid = {pair: lift(Levels([3, 1, 2, 1], 5, 9), pair) for pair in combinations(range(4), 2)}
    assert paid.pop((0, 2)) == pytest.approx(1.0)
    assert max(paid.values()) < 0.5  # a single food, of levels 5 or 2: at most 5 / 7, halved


def test_the_partner_goes_for_what_it_likes():
    likes = {"south": [1, 0, 0], "east": [0, 1, 0], "near": [0, 0, 1]}
    better = {
        "south": lambda food: -food[0],
        "east": lambda food: -food[1],
        "near": lambda food: distance(food, (0, 4)),
    }
    for name, weights in likes.items():
        env = with_partners(Partners(weights, 0, 14), {PARTNER: partner})
        env.reset(seed=5)
        board = env.unwrapped
        best = min(map(better[name], board.foods))
        assert better[name](board.target) == best
        while env.agents:
            env.step(dict.fromkeys(env.agents, 0))
        assert distance(board.positions[2], board.target) == 1


def test_a_partner_that_waits_stands_still_at_first():
    env = with_partners(Partners([1, 0, 0], 3, 14), {PARTNER: partner})
    env.reset(seed=1)
    start = env.unwrapped.positions[2]
    for _ in range(3):
        env.step({"agent_0": 0, "agent_1": 0})
    assert env.unwrapped.positions[2] == start
    env.step({"agent_0": 0, "agent_1": 0})
    assert env.unwrapped.positions[2] != start


def test_others_are_seen_within_two_steps_only():
    env = Partners([1, 0, 0], 0, 14)
    observations, _ = env.reset(seed=0)
    assert (observations["agent_0"][-4:] == -1).all()
    env.game.players[2].position = (6, 1)  # one row and one column away from agent 0
    np.testing.assert_allclose(env.game._make_gym_obs()[0][-4:], [-1, -1, 6, 1])


def test_the_team_of_a_batch_has_no_partner_in_it():
    env = batch_env(PARTNERS, PARTNERS.held_out_tasks[:2])
    assert env.rosters == [["agent_0", "agent_1"]] * 2
    step = env.reset([1, 2])
    assert step.observations.shape == (2, 2, 14)
    assert env.step(np.zeros((2, 2), int)).individual_rewards.shape == (2, 2)


def test_partners_must_be_some_of_the_agents():
    env = Partners([1, 0, 0], 0, 14)
    with pytest.raises(UserError, match="must be some of its agents"):
        with_partners(env, {"agent_7": partner})
    with pytest.raises(UserError, match="but not all"):
        with_partners(env, dict.fromkeys(env.possible_agents, partner))


def test_a_partners_chance_follows_from_the_seed():
    def chance(env, rng):
        return int(rng.integers(6))

    traces = []
    for _ in range(2):
        env = with_partners(Partners([1, 0, 0], 0, 14), {PARTNER: chance})
        env.reset(seed=4)
        for _ in range(8):
            env.step({"agent_0": 0, "agent_1": 0})
        traces.append(env.unwrapped.positions)
    assert traces[0] == traces[1]


@pytest.mark.parametrize("family", [LEVELS, PARTNERS], ids=lambda family: family.name)
def test_agents_make_the_same_guess(family):
    """A guess is right for some tasks and wrong for others, and all agents go along with it."""
    returns = np.concatenate(
        [
            play(family, task, 0.0, [(5, e) for e in range(6)], "policy0").returns
            for task in family.training_tasks[:30]
        ]
    )
    assert 0.05 < (returns > 0.95).mean() < 0.35
