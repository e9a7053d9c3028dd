"""The rules of METHOD.md, section 9, played move by move."""

from __future__ import annotations

import numpy as np
import pytest
from lbforaging.foraging.environment import Action, ForagingEnv
from pettingzoo.test import parallel_api_test, parallel_seed_test

from maicc.envs import get_family
from maicc.envs.games.lbf import Foraging
from maicc.envs.games.lbf_policies import expert

NONE, NORTH, SOUTH, WEST, EAST, LOAD = range(6)


def env_at(food=(1, 3), size=7, max_steps=15) -> Foraging:
    env = Foraging(size, food, max_steps)
    env.reset(seed=0)
    return env


def step(env: Foraging, *actions: int):
    """Observations, rewards, terminations, truncations and infos as lists, agent by agent."""
    parts = env.step({f"agent_{i}": a for i, a in enumerate(actions)})
    return [[part[f"agent_{i}"] for i in range(3)] for part in parts]


def place(env: Foraging, *cells) -> None:
    for player, cell in zip(env.game.players, cells, strict=True):
        player.position = cell
    env.game._gen_valid_moves()


@pytest.mark.parametrize("name", ["lbf_7x7", "lbf_9x9"])
def test_pettingzoo_contract(name):
    family = get_family(name)
    task = family.training_tasks[4]
    parallel_api_test(family.make_env(task), num_cycles=100)
    parallel_seed_test(lambda: family.make_env(task))


@pytest.mark.parametrize(("name", "held_out"), [("lbf_7x7", 16), ("lbf_9x9", 40)])
def test_tasks_of_the_paper(name, held_out):
    family = get_family(name)
    assert len(family.training) == 9
    assert len(family.held_out) == held_out
    training = {tuple(p["food"]) for p in family.training.values()}
    unseen = {tuple(p["food"]) for p in family.held_out.values()}
    assert not training & unseen
    side = family.training_tasks[0].parameters["size"]
    assert training | unseen == {
        (r, c) for r in range(1, side - 1) for c in range(1, side - 1)
    }  # every interior cell is one or the other


def test_starts():
    assert env_at().positions == ((6, 0), (6, 6), (0, 3))


def test_observation_of_unseen_food_and_agents():
    env = env_at(food=(3, 3))
    observations, _ = env.reset(seed=0)
    assert observations["agent_0"].tolist() == [-1, -1, 6, 0, -1, -1, -1, -1]


def test_observation_of_food_and_agents_in_sight():
    env = env_at(food=(3, 3))
    place(env, (2, 2), (6, 6), (2, 3))
    observations, *_ = step(env, NONE, NONE, NONE)
    # food one down and one right; the agent in sight comes before the one out of sight
    assert observations[0].tolist() == [2, 2, 2, 2, 1, 2, -1, -1]
    assert observations[2].tolist() == [2, 1, 2, 3, 1, 0, -1, -1]


def test_first_reach_is_paid_once():
    env = env_at(food=(1, 3))  # agent 2 starts beside it
    _, rewards, *_ = step(env, NONE, NONE, NONE)
    assert rewards == [0, 0, pytest.approx(1 / 3)]
    _, rewards, *_ = step(env, NONE, NONE, EAST)
    assert rewards == [0, 0, 0]
    _, rewards, *_ = step(env, NONE, NONE, WEST)
    assert rewards == [0, 0, 0]


def test_diagonal_is_not_beside():
    env = env_at(food=(3, 3))
    place(env, (2, 2), (6, 6), (0, 3))
    _, rewards, *_ = step(env, NONE, NONE, NONE)
    assert rewards == [0, 0, 0]


def test_joint_load_ends_the_episode():
    env = env_at(food=(3, 3))
    place(env, (2, 3), (4, 3), (3, 2))
    _, rewards, _, _, _ = step(env, LOAD, LOAD, NONE)  # two are not enough
    assert sum(rewards) == pytest.approx(1.0)  # three first reaches
    _, rewards, terminated, truncated, _ = step(env, LOAD, LOAD, LOAD)
    assert sum(rewards) == pytest.approx(1.0)
    assert terminated == [True] * 3
    assert truncated == [False] * 3
    assert env.agents == []


def test_time_limit_is_truncation():
    env = env_at(max_steps=2)
    step(env, NONE, NONE, NONE)
    _, _, terminated, truncated, _ = step(env, NONE, NONE, NONE)
    assert terminated == [False] * 3
    assert truncated == [True] * 3


def test_blocked_moves_are_no_ops():
    env = env_at(food=(3, 3))
    step(env, SOUTH, EAST, NORTH)  # off the board, all three
    assert env.positions == ((6, 0), (6, 6), (0, 3))
    place(env, (2, 3), (6, 6), (0, 3))
    step(env, SOUTH, NONE, NONE)  # onto the food
    assert env.positions[0] == (2, 3)
    step(env, NONE, LOAD, NONE)  # load away from food
    assert env.positions[1] == (6, 6)


def test_colliding_agents_stay():
    env = env_at(food=(5, 5))
    place(env, (2, 2), (2, 4), (0, 0))
    step(env, EAST, WEST, NONE)
    assert env.positions == ((2, 2), (2, 4), (0, 0))
    place(env, (2, 2), (2, 3), (0, 0))
    step(env, EAST, NONE, NONE)  # onto an agent that stands
    assert env.positions[0] == (2, 2)


def test_action_mask():
    env = env_at(food=(1, 3))
    _, infos = env.reset(seed=0)
    assert infos["agent_0"]["action_mask"].tolist() == [1, 1, 0, 0, 1, 0]  # corner, no food
    assert infos["agent_2"]["action_mask"].tolist() == [1, 0, 0, 1, 1, 1]  # above the food


@pytest.mark.parametrize("name", ["lbf_7x7", "lbf_levels", "lbf_partners"])
def test_legal_actions_are_those_of_upstream(name):
    family = get_family(name)
    game = family.make_env(family.training_tasks[0]).unwrapped.game
    game.reset(seed=0)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        game.field[:] = rng.random(game.field.shape) < 0.3
        for player in game.players:
            player.position = tuple(rng.integers(game.rows, size=2).tolist())
        game._gen_valid_moves()
        ours = game._valid_actions
        ForagingEnv._gen_valid_moves(game)
        assert ours == game._valid_actions
        seen |= {tuple(actions) for actions in ours.values()}
        assert game.legal == [tuple(a in ours[player] for a in Action) for player in game.players]
    assert len(seen) > 16  # of the 32 that there are


@pytest.mark.parametrize("name", ["lbf_7x7", "lbf_9x9"])
def test_expert_reaches_the_maximum_everywhere(name):
    family = get_family(name)
    for task in [*family.training_tasks, *family.held_out_tasks]:
        env, rng, total = family.make_env(task), np.random.default_rng(0), 0.0
        env.reset(seed=0)
        while env.agents:
            total += sum(env.step(expert(env, rng))[1].values())
        assert total == pytest.approx(2.0), task.name


def test_food_on_the_border_is_refused():
    with pytest.raises(ValueError, match="not an interior cell"):
        Foraging(7, (0, 3), 15)


@pytest.mark.parametrize(("name", "first", "later"), [("lbf_7x7", 1.3, 1.6), ("lbf_9x9", 0.9, 1.5)])
def test_the_explorer_finds_the_food_and_remembers_it(name, first, later):
    family, returns = get_family(name), []
    for i, task in enumerate(family.held_out_tasks[:16]):
        env, rng = family.make_env(task), np.random.default_rng(i)
        team = {agent: family.explorer() for agent in env.possible_agents}
        returns.append([])
        for episode in range(4):
            observations, infos = env.reset(seed=episode)
            total = 0.0
            while env.agents:
                observations, rewards, *_, infos = env.step({
                    a: team[a].act(observations[a], infos[a]["action_mask"], rng)
                    for a in env.agents
                })  # fmt: skip
                total += sum(rewards.values())
            for explorer in team.values():
                explorer.end_episode()
            returns[-1].append(total)
    assert np.mean(returns, 0)[0] > first
    assert np.mean(returns, 0)[1:].mean() > later
