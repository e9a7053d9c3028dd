from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest

from maicc.envs import get_family
from maicc.envs.games.smax_policies import go_for, hunt
from maicc.types import Task, UserError

pytest.importorskip("jaxmarl", reason="the extra `smax` is not installed")

from maicc.envs.games.smax_commander import (
    LAYOUT,
    NUMBERS,
    SIDES,
    Commander,
    CommanderBatch,
    reveal,
)
from maicc.envs.games.smax_commander_tasks import (
    COMMANDERS,
    commanders,
    felled,
    hunter,
    nearest,
    won_by,
)

pytestmark = pytest.mark.slow

FAMILY = get_family("smax_commander")
BATTLE = dict(FAMILY.training_tasks[0].parameters)
OTHER = FAMILY.training_tasks[1].parameters["commander"]  # of the same composition
ROWS = 16  # of every batch: each number of games is compiled anew


def batch(*parameters) -> CommanderBatch:
    """Games of these parameters, over and over."""
    rows = [parameters[i % len(parameters)] for i in range(ROWS)]
    return CommanderBatch([Task("", "", p) for p in rows])


def orders(games, script, shown, rng):
    """Actions (B, A) of the games that run."""
    actions = np.zeros(games.agent_mask.shape, int)
    for b in np.flatnonzero(~shown.done):
        for agent, action in script(games, b, shown, rng).items():
            actions[b, games.rosters[b].index(agent)] = action
    return actions


def deceived(games, row, shown, rng):
    """Hunts another enemy who can be felled first."""
    return go_for(games.envs[row], OTHER)


@pytest.mark.parametrize("script", [hunter, deceived])
def test_nothing_is_different_until_the_commander_falls_and_then_all_is_won(script):
    games, plain = batch(BATTLE), batch(BATTLE)
    plain.commands = np.zeros_like(games.commands)
    commander = SIDES[0] + BATTLE["commander"]
    seeds, rng = range(ROWS), np.random.default_rng(0)
    shown, before = games.reset(seeds), plain.reset(seeds)
    total, fallen = np.zeros(ROWS), np.zeros(ROWS, bool)
    others = 0  # enemies who fell and took nobody with them
    while not shown.done.all():
        running = ~shown.done
        actions = orders(games, script, shown, rng)
        shown, before = games.step(actions), plain.step(actions)
        total += shown.rewards
        fallen |= running & ~plain.known["alive"][:, commander]
        same = running & ~fallen
        for now, then in zip(shown, before, strict=True):
            assert (now[same] == then[same]).all()
        there = np.arange(SIDES[1]) < BATTLE["enemies"]
        others += (~plain.known["alive"][same][:, SIDES[0] :] & there).sum()
        assert shown.terminated[fallen].all()
        assert not games.known["alive"][fallen, SIDES[0] :].any()
    won = fallen & games.known["alive"][:, : SIDES[0]].any(1)  # all may fall at once
    assert (games.won == won).all()
    assert won.any() if script is hunter else others
    assert total[won] == pytest.approx(2.0, abs=1e-5)
    assert (total[~fallen] < 1.0).all()


def test_agents_see_the_numbers_of_the_enemies_in_sight_and_not_who_commands():
    first, second = BATTLE, {**BATTLE, "commander": (BATTLE["commander"] + 1) % BATTLE["enemies"]}
    games, rng = batch(first, second), np.random.default_rng(0)
    shown, seen = games.reset([0] * ROWS), 0
    assert (shown.observations[0] == shown.observations[1]).all()
    start, count, size = LAYOUT.enemies
    for _ in range(10):
        enemies = shown.observations[..., start : start + count * size]
        enemies = enemies.reshape(*enemies.shape[:2], count, size)  # (B, A, M, 17)
        units, numbers = enemies[..., :-4], enemies[..., -4:]
        in_sight = units.any(-1)
        seen += in_sight.sum()
        assert (numbers == np.where(in_sight[..., None], NUMBERS, 0.0)).all()
        assert in_sight[shown.action_mask[..., LAYOUT.attack :]].all()
        rest = np.delete(shown.observations, np.s_[start : start + count * size], -1)
        plain = games.known["observations"]
        assert (np.delete(plain, np.s_[start : start + count * (size - 4)], -1) == rest).all()
        shown = games.step(orders(games, nearest, shown, rng))
    assert seen
    assert len(np.unique(NUMBERS, axis=0)) == SIDES[1]


def test_reveal_tells_the_commander_by_the_bits_that_agents_see():
    assert reveal({**BATTLE, "commander": 0}) == [-1.0, -1.0, -1.0, -1.0]
    assert reveal({**BATTLE, "commander": 6}) == [-1.0, 1.0, 1.0, -1.0]


def test_games_joined_equal_games_alone_and_follow_from_their_seed():
    tasks = [dict(FAMILY.training_tasks[i].parameters) for i in (0, -1)]
    games, alone = batch(*tasks), [Commander(**p) for p in tasks]
    rng = np.random.default_rng(0)
    shown = games.reset([4, 5] * (ROWS // 2))
    each = [env.reset(seed=s)[0] for env, s in zip(alone, (4, 5), strict=True)]
    for _ in range(8):
        assert (shown.observations[:2] == shown.observations[-2:]).all()
        for b, (env, seen) in enumerate(zip(alone, each, strict=True)):
            n = len(env.possible_agents)
            assert np.allclose(shown.observations[b, :n], np.stack(list(seen.values())), atol=1e-5)
        actions = np.tile(orders(games, nearest, shown, rng)[:2], (ROWS // 2, 1))
        shown = games.step(actions)
        each = [
            env.step(dict(zip(env.possible_agents, actions[b].tolist(), strict=False)))[0]
            for b, env in enumerate(alone)
        ]
    shown = games.reset([4, 6] * (ROWS // 2))
    for _ in range(8):
        shown = games.step(actions)
    assert (games.known["cooldown"][0] != games.known["cooldown"][1]).any()


def test_the_hunter_shoots_the_commander_or_goes_for_it():
    game = SimpleNamespace(
        parameters={"commander": 1},
        alive=np.array([True, True, False, True, True]),
        legal=np.array([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 1, 0, 0]]) > 0,
        position=np.array([[9.0, 9.0], [2.0, 9.0], [0.0, 0.0], [3.0, 9.0], [12.0, 8.0]]),
    )
    assert hunt(game, np.random.default_rng(0)) == {"ally_0": 6, "ally_1": 1}


def test_the_list_holds_out_whole_compositions_that_do_not_tell_who_commands():
    commanders = defaultdict(set)
    for task in (*FAMILY.training_tasks, *FAMILY.held_out_tasks):
        p = task.parameters
        CommanderBatch.check(p)
        commanders[p["allies"], p["enemies"], p["seed"]].add(p["commander"])
    assert min(len(of_one) for of_one in commanders.values()) >= COMMANDERS
    trained, held_out = (
        {t.parameters["seed"] for t in tasks}
        for tasks in (FAMILY.training_tasks, FAMILY.held_out_tasks)
    )
    assert not trained & held_out
    assert len(trained | held_out) == len(commanders)
    assert len(FAMILY.training_tasks) >= 150
    assert len(FAMILY.held_out_tasks) >= 20
    assert all(allies < enemies for allies, enemies, _ in commanders)


def test_who_knows_the_commander_wins_the_listed_tasks_and_no_other_does():
    listed = [dict(t.parameters) for t in FAMILY.held_out_tasks[::7][:4]]
    assert won_by(listed, hunter, ROWS // 4, seed=2).mean() >= 0.75
    assert won_by(listed, nearest, ROWS // 4, seed=2).mean() <= 0.4
    (wins,) = felled(listed[:1], ROWS // 4, seed=2)
    hunted = [t.parameters["commander"] for t in FAMILY.held_out_tasks]
    among = wins[np.ix_(hunted[:COMMANDERS], hunted[:COMMANDERS])]  # of the same composition
    others = (among.sum() - among.trace()) / (COMMANDERS * (COMMANDERS - 1))
    assert among.diagonal().mean() >= 0.75
    assert others <= 0.4


def test_commanders_are_those_who_fall_only_when_they_are_hunted_first():
    wins = np.array(
        [[1.0, 0.0, 0.9, 0.1], [0.1, 0.9, 0.8, 0.2], [0.0, 0.0, 1.0, 0.0], [0, 0, 1, 0.5]]
    )
    assert commanders(wins, np.zeros(4)) == [0, 1]  # 2 falls too often, and 3 too seldom
    assert commanders(wins, np.array([0.5, 0.0, 0.0, 0.0])) == [1]


def test_refused():
    with pytest.raises(UserError, match="expected allies, commander, enemies, seed"):
        Commander(allies=3, enemies=4, seed=0)
    for wrong in ({"allies": 6}, {"enemies": 8}, {"commander": BATTLE["enemies"]}):
        with pytest.raises(UserError, match="1 to 5 allies, 1 to 7 enemies"):
            batch({**BATTLE, **wrong})


def test_drawings_show_the_units_that_are_seen():
    games = batch(BATTLE)
    shown = games.reset(range(ROWS))
    drawing = FAMILY.draw(shown.observations[0], shown.alive[0])
    ours = {s.agent: (s.x, s.y) for s in drawing.shapes if s.agent is not None}
    assert sorted(ours) == np.flatnonzero(shown.alive[0]).tolist()
    position = games.known["position"][0]
    height = drawing.height
    for agent, place in ours.items():
        assert place == pytest.approx((position[agent][0], height - position[agent][1]), abs=1e-3)
    theirs = [s for s in drawing.shapes if s.agent is None]
    start, count, size = LAYOUT.enemies
    seen = shown.observations[0][:, start : start + count * size].reshape(-1, count, size)
    assert len(theirs) == (seen[..., 0] > 0).any(0).sum()
    for shape in theirs:
        enemy = position[SIDES[0] + int(shape.label[1:])]
        assert (shape.x, height - shape.y) == pytest.approx(tuple(enemy), abs=1e-2)
