from __future__ import annotations

import random
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from maicc.data.behaviour import play
from maicc.envs import BatchEnv, get_family
from maicc.envs.games.smac import ATTACK, LAYOUT, NO_OP, RACES, STOP, Smac, focus_fire
from maicc.types import OutsideError, UserError

FIXED = {"race": "protoss", "allies": 3, "enemies": 3, "seed": 7, "vary": False}
FAMILIES = [get_family(f"smac_{name}") for name in ("protoss", "terran", "zerg", "all")]


@pytest.fixture
def game(monkeypatch):
    """The real smacv2 on a stand-in for StarCraft II; gives its `dies`."""
    try:
        import smacv2.env.starcraft2.starcraft2
    except (ImportError, TypeError) as error:
        pytest.skip(f"smacv2 can't be imported ({str(error).strip().splitlines()[0]})")
    from tests import stand_in_game

    dies: list[int] = []
    monkeypatch.setattr(
        smacv2.env.starcraft2.starcraft2.run_configs,
        "get",
        lambda version: stand_in_game.run_config(dies),
    )
    stand_in_game.Game.launched = stand_in_game.Game.closed = 0
    return SimpleNamespace(dies=dies, Game=stand_in_game.Game)


def battle(env: Smac, seed: int = 0) -> tuple[float, dict]:
    """Return and last infos of a battle under the scripted commander."""
    rng, total = np.random.default_rng(0), 0.0
    _, infos = env.reset(seed)
    while env.agents:
        _, rewards, terminated, truncated, infos = env.step(focus_fire(env, rng))
        total += sum(rewards.values())
    assert all(terminated.values()) != all(truncated.values())
    return total, infos


def test_pettingzoo_contract(game):
    from pettingzoo.test import parallel_api_test, parallel_seed_test

    parallel_api_test(Smac(**FIXED), num_cycles=60)
    parallel_seed_test(lambda: Smac(**{**FIXED, "vary": True}), num_cycles=5)


@pytest.mark.parametrize("race", RACES)
@pytest.mark.parametrize("vary", [False, True])
def test_a_battle_won_pays_twenty_whatever_was_drawn_before(game, race, vary):
    env = Smac(**{**FIXED, "race": race, "vary": vary, "allies": 6})
    for seed in range(3):
        total, infos = battle(env, seed)
        assert total == pytest.approx(20.0, abs=1e-4)
        assert infos["ally_0"]["battle_won"]
    assert game.Game.launched == 1
    env.close()
    assert game.Game.closed == 1


@pytest.mark.parametrize("race", RACES)
def test_observations_show_all_who_are_in_sight_where_the_layout_says(game, race):
    rng, checked = np.random.default_rng(0), 0
    kind, shields = 3 * list(RACES).index(race), race == "protoss"
    for seed, (allies, enemies) in ((3, (2, 3)), (4, (5, 6)), (5, (5, 5))):
        env = Smac(**{**FIXED, "race": race, "vary": True, "allies": allies, "enemies": enemies})
        seen, infos = env.reset(seed)
        inner = env.game.env
        while env.agents:
            for i, agent in enumerate(env.possible_agents):
                me, own = inner.agents[i], seen[agent][: LAYOUT.own[1]]
                if me.health == 0:
                    assert not seen[agent].any()
                    continue
                mask = infos[agent]["action_mask"]
                assert own[:4].tolist() == mask[2:6].tolist()
                assert own[4] == pytest.approx(me.health / me.health_max)
                assert own[5] == pytest.approx(me.shield / me.shield_max if shields else 0)
                assert own[6:8] == pytest.approx([me.pos.x / 32, me.pos.y / 32])
                assert np.flatnonzero(own[8:]) == kind + inner.get_unit_type_id(me, True)
                others = {j if j < i else j - 1: u for j, u in inner.agents.items() if j != i}
                for group, units, ally in (
                    (LAYOUT.allies, others, True),
                    (LAYOUT.enemies, inner.enemies, False),
                ):
                    at, count, width = group
                    rows = seen[agent][at : at + count * width].reshape(count, width)
                    assert not rows[len(units) :].any()
                    for j, unit in units.items():
                        away = np.hypot(unit.pos.x - me.pos.x, unit.pos.y - me.pos.y)
                        shown = unit.health > 0 and away < inner.unit_sight_range(i)
                        assert rows[j].any() == shown
                        if shown:
                            assert rows[j, 4] == pytest.approx(unit.health / unit.health_max)
                            expected = kind + inner.get_unit_type_id(unit, ally)
                            assert np.flatnonzero(rows[j, 6:]) == expected
                            checked += 1
                    assert bool(own[LAYOUT.heals]) == (inner.medivac_id == me.unit_type)
                    if not ally and inner.medivac_id != me.unit_type:
                        assert mask[ATTACK:].tolist() == rows[:, 0].tolist()  # who can be shot
            seen, _, _, _, infos = env.step(focus_fire(env, rng))
        env.close()
    assert checked > 300


def test_medivacs_heal_the_weakest_in_range(game):
    env = Smac(**{**FIXED, "race": "terran", "vary": True, "allies": 8, "enemies": 8})
    rng, healed = np.random.default_rng(0), 0
    start, count, width = LAYOUT.allies
    for seed in range(12):
        seen, infos = env.reset(seed)
        while env.agents:
            inner, orders, expected = env.game.env, focus_fire(env, rng), {}
            for i, agent in enumerate(env.possible_agents):
                aim = orders[agent] - ATTACK
                if inner.agents[i].unit_type != inner.medivac_id or aim < 0:
                    continue
                allies = seen[agent][start : start + count * width].reshape(count, width)
                others = [j for j in inner.agents if j != i]
                legal = np.flatnonzero(infos[agent]["action_mask"][ATTACK:])
                assert allies[legal].any(1).all()  # who can be healed is seen
                assert len(legal) == sum(inner.get_avail_agent_actions(i)[ATTACK:])
                weakest = inner.agents[others[aim]]
                assert weakest.health == min(inner.agents[others[j]].health for j in legal)
                assert allies[aim, 4] == pytest.approx(weakest.health / weakest.health_max)
                expected[i] = ATTACK + others[aim]  # smacv2 counts all agents
            seen, _, _, _, infos = env.step(orders)
            assert {i: inner.last_action[i].argmax() for i in expected} == expected
            healed += len(expected)
    assert healed > 5


def test_what_regenerates_is_not_paid_again(game):
    """Enemies are as good as new before every other step, until they are let go."""
    env = Smac(**{**FIXED, "allies": 6})
    rng, paid = np.random.default_rng(0), 0.0
    env.reset(0)
    inner = env.game.env
    most = 20 * (1 - inner.reward_win / inner.max_reward)
    for step in range(100):
        if step < 60 and step % 2:
            for unit in env.game.env._controller.units.values():
                unit.health, unit.shield = unit.health_max, unit.shield_max
        _, rewards, _, _, infos = env.step(focus_fire(env, rng))
        paid += sum(rewards.values())
        if not env.agents:
            break
        assert paid <= most + 1e-4
        if step == 59:
            assert paid == pytest.approx(most, abs=1e-4)
    assert infos["ally_0"]["battle_won"]
    assert paid == pytest.approx(20.0, abs=1e-4)


def test_seeds_draw_units_and_spawns_and_leave_pythons_generator_alone(game):
    def start(episode, **changes):
        env = Smac(**{**FIXED, "allies": 6, "enemies": 6, **changes})
        env.reset(episode)
        drawn = [(u.unit_type, u.pos.x, u.pos.y) for u in env.game.env.agents.values()]
        env.close()
        return drawn

    random.seed(5)
    expected = random.random()
    random.seed(5)
    assert start(1, vary=True) == start(1, vary=True)
    assert start(1, vary=True) != start(2, vary=True)
    assert start(1) == start(2)
    assert start(1) != start(1, seed=8)
    assert random.random() == expected


def test_the_time_limit_truncates_and_the_dead_do_nothing(game):
    alone = Smac(**{**FIXED, "allies": 1, "enemies": 8})
    alone.reset(0)
    while alone.agents:
        _, _, terminated, truncated, infos = alone.step({"ally_0": STOP})
    assert (terminated["ally_0"], truncated["ally_0"]) == (True, False)
    assert not infos["ally_0"]["battle_won"]
    assert np.flatnonzero(infos["ally_0"]["action_mask"]).tolist() == [NO_OP]
    far = Smac(**{**FIXED, "vary": True})
    far.reset(0)
    for unit in list(far.game.env._controller.units.values()):
        unit.pos.x = 0.0 if unit.owner == 1 else 500.0
    for step in range(100):
        assert far.agents, step
        _, _, terminated, truncated, _ = far.step(dict.fromkeys(far.possible_agents, STOP))
    assert (terminated["ally_0"], truncated["ally_0"], far.agents) == (False, True, [])


def test_a_game_that_dies_costs_an_episode_and_then_is_an_error(game):
    env = Smac(**FIXED)
    idle = dict.fromkeys(env.possible_agents, STOP)
    assert battle(env)[0] == pytest.approx(20.0, abs=1e-4)
    env.reset(0)
    game.dies.append(0)
    _, rewards, terminated, truncated, infos = env.step(idle)
    assert (sum(rewards.values()), truncated["ally_0"], terminated["ally_0"]) == (0, True, False)
    assert infos["ally_0"]["game_crashed"]
    assert (game.Game.launched, game.Game.closed) == (1, 1)
    assert battle(env)[0] == pytest.approx(20.0, abs=1e-4)  # a fresh game
    batch, stop = BatchEnv([env]), np.full((1, len(env.possible_agents)), STOP)
    batch.reset([0])
    game.dies.append(0)
    batch.step(stop)
    batch.reset([0])
    game.dies.append(0)
    with pytest.raises(OutsideError, match="broke off in two episodes running"):
        batch.step(stop)
    assert game.Game.launched == game.Game.closed == 3


def test_a_game_that_dies_while_a_battle_is_set_up_is_started_again(game):
    env = Smac(**FIXED)
    game.dies.append(-1)
    assert battle(env)[0] == pytest.approx(20.0, abs=1e-4)
    for _ in range(3):
        env.reset(0)  # without an end in between
    assert (game.Game.launched, game.Game.closed) == (2, 1)
    game.dies += [-1, -1]
    with pytest.raises(OutsideError, match="can't be started"):
        env.reset(0)
    assert game.Game.launched == game.Game.closed


def test_a_dataset_holds_no_episode_that_broke_off(game):
    family = get_family("smac_protoss")
    game.dies.append(3)
    episodes = play(family, family.training_tasks[0], 0.0, [(1, e) for e in range(2)])
    assert episodes.rewards.sum(1) == pytest.approx([20.0] * 2, abs=1e-3)
    assert episodes.terminated.all()


def test_a_game_that_does_not_start_is_tried_twice(game, monkeypatch):
    from smacv2.env.starcraft2 import starcraft2

    tried, works = [], starcraft2.run_configs.get

    def flaky(version):
        tried.append(version)
        if len(tried) == 1:
            raise ConnectionError("no answer")
        return works(version)

    monkeypatch.setattr(starcraft2.run_configs, "get", flaky)
    assert battle(Smac(**FIXED))[0] == pytest.approx(20.0, abs=1e-4)

    def broken(version):
        raise starcraft2.protocol.ConnectionError("no answer")

    monkeypatch.setattr(starcraft2.run_configs, "get", broken)
    with pytest.raises(OutsideError, match=r"can't be started .* `maicc doctor`"):
        Smac(**FIXED).reset(0)


def test_datasets_are_played_in_one_game(game):
    family = get_family("smac_protoss")
    episodes = play(family, family.training_tasks[0], 0.0, [(1, e) for e in range(3)])
    assert episodes.rewards.sum(1) == pytest.approx([20.0] * 3, abs=1e-3)
    assert episodes.agent_mask.sum(1).tolist() == [5] * 3
    assert (game.Game.launched, game.Game.closed) == (1, 1)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_tasks(family):
    assert family.spec.layout == LAYOUT
    assert family.spec.n_agents == 12
    names = [task.name for task in (*family.training_tasks, *family.held_out_tasks)]
    assert len(set(names)) == len(names)


def test_refused(monkeypatch):
    with pytest.raises(UserError, match="race is one of protoss, terran, zerg"):
        Smac(**{**FIXED, "race": "human"})
    with pytest.raises(UserError, match="expected allies, enemies, race, seed, vary"):
        Smac(race="terran")
    monkeypatch.setitem(sys.modules, "smacv2.env.starcraft2.wrapper", None)
    with pytest.raises(OutsideError, match=r"needs smacv2 .* `maicc doctor` says what is missing"):
        Smac(**FIXED).reset(0)
