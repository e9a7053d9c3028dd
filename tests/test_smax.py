from __future__ import annotations

import json
import sys
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch

from maicc.config import DecisionConfig, EmbeddingConfig, MemoryConfig
from maicc.data.behaviour import play
from maicc.data.dataset import EpisodeFile, write_episodes
from maicc.data.episodes import concatenate
from maicc.data.slices import slices
from maicc.data.team_batch import team_batch
from maicc.envs import get_family
from maicc.models.decision import DecisionTransformer
from maicc.models.embedding import Embedding
from maicc.teams.team import Team
from maicc.training.offline_keys import offline_keys, offline_memory
from maicc.types import Behaviour, Task, UserError

pytest.importorskip("jaxmarl", reason="the extra `smax` is not installed")

from maicc.envs.games import smax
from maicc.envs.games.smax import LAYOUT, MAX_STEPS, MOST, RACES, STOP, Smax, SmaxBatch
from maicc.envs.games.smax_policies import MAP, WALL, attack_nearest
from maicc.models.observations import is_visible, split_entities

pytestmark = pytest.mark.slow

PROTOSS, ALL = get_family("smax_protoss"), get_family("smax_all")
FIXED = {"race": "terran", "allies": 3, "enemies": 3, "seed": 7, "vary": False}


def batch(*changes) -> SmaxBatch:
    return SmaxBatch([Task("smax", str(i), {**FIXED, **c}) for i, c in enumerate(changes)])


def test_pettingzoo_contract():
    from pettingzoo.test import parallel_api_test, parallel_seed_test

    parallel_api_test(Smax(**FIXED), num_cycles=30)
    parallel_seed_test(lambda: Smax(**{**FIXED, "vary": True}), num_cycles=10)


def test_what_follows_a_seeded_episode_is_seeded_too():
    def third(seed):
        env = Smax(**{**FIXED, "vary": True})
        for given in (seed, None, None):
            seen, _ = env.reset(given)
        return np.stack(list(seen.values()))

    assert (third(1) == third(1)).all()
    assert (third(1) != third(2)).any()


def test_games_joined_equal_games_alone():
    changes = [{}, {"race": "zerg", "allies": 5, "enemies": 6}, {"vary": True, "allies": 12}]
    together, rng = batch(*changes), np.random.default_rng(0)
    alone = [Smax(**{**FIXED, **c}) for c in changes]
    now = together.reset([4, 5, 6])
    each = [env.reset(seed=s)[0] for env, s in zip(alone, (4, 5, 6), strict=True)]
    for _ in range(12):
        for b, (env, seen) in enumerate(zip(alone, each, strict=True)):
            n = len(env.possible_agents)
            assert np.allclose(now.observations[b, :n], np.stack(list(seen.values())), atol=1e-5)
        actions = (rng.random(now.action_mask.shape) * now.action_mask).argmax(-1)
        now = together.step(actions)
        each = [
            env.step(dict(zip(env.possible_agents, actions[b].tolist(), strict=False)))[0]
            for b, env in enumerate(alone)
        ]


def test_units_that_a_task_does_not_have_are_dead_and_unseen():
    games = batch({"allies": 2, "enemies": 4}, {}, {})
    now = games.reset([0, 0, 0])
    assert games.agent_mask[0].sum() == 2
    assert games.known["alive"][0].tolist() == [True] * 2 + [False] * 10 + [True] * 4 + [False] * 8
    assert (now.observations[0, 2:] == 0).all()
    assert now.action_mask[0, 2:].sum(1).tolist() == [1] * 10
    assert now.action_mask[0, 2:, STOP].all()
    allies = now.observations[0, 0, : 11 * 13].reshape(11, 13)
    assert (allies[1:] == 0).all()
    assert (allies[0] != 0).any()


def test_the_layout_says_who_is_where():
    games, rng = batch({"allies": 5, "enemies": 6}, {}, {"allies": 12}), np.random.default_rng(0)
    now, attacks, strongest = games.reset([0, 1, 2]), 0, defaultdict(set)
    while not now.done.all():
        seen = split_entities(LAYOUT, torch.from_numpy(now.observations))
        enemies = is_visible(seen.enemies).numpy()
        legal = now.action_mask[..., LAYOUT.attack :] & ~now.done[:, None, None]
        assert enemies[legal].all()  # whoever can be shot is seen
        attacks += int(legal.sum())
        for b, i, j in np.argwhere(enemies)[:20]:
            most = 1e-6 + games.known["health"][b, MOST + j] / seen.enemies[b, i, j, 0].item()
            strongest[games.known["kind"][b, MOST + j]].add(round(most))
        mates = is_visible(seen.allies).numpy()
        assert not mates[0, :, 4:].any()  # a team of five has four others
        assert is_visible(seen.own.unsqueeze(-2))[now.action_mask[..., :STOP].any(-1)].all()
        now = games.step((rng.random(now.action_mask.shape) * now.action_mask).argmax(-1))
    assert attacks > 50
    assert all(len(full) == 1 for full in strongest.values())  # health is a share of one number


def test_a_step_is_compiled_once():
    import jax

    games = batch({}, {})
    games.reset([0, 1])
    before = jax.tree.map(lambda x: str(x.aval) + str(x.aval.weak_type), games._state)
    games.step(np.full((2, MOST), STOP))
    assert before == jax.tree.map(lambda x: str(x.aval) + str(x.aval.weak_type), games._state)


def test_rewards_ends_and_the_dead():
    games = batch({"allies": 1, "enemies": 5}, {"allies": 8, "enemies": 1}, {})
    now, total = games.reset([1, 2, 3]), np.zeros(3)
    rng = np.random.default_rng(0)
    while not now.done.all():
        before = now
        actions = np.full((3, MOST), STOP)
        for b, game in enumerate(games.envs):
            orders = PROTOSS.expert(game, rng)
            actions[b] = [orders[f"ally_{i}"] for i in range(MOST)]
        now = games.step(actions)
        total += now.rewards
        assert (now.rewards[before.done] == 0).all()
    assert games.won.tolist()[:2] == [False, True]
    assert now.terminated[:2].all()
    assert total[0] < 1
    assert total[1] == pytest.approx(2.0, abs=1e-5)  # all the damage there is, and the win
    assert now.action_mask[0, 0].tolist() == [a == STOP for a in range(17)]
    assert (total <= 2.0 + 1e-5).all()


def test_the_time_limit_truncates(monkeypatch):
    monkeypatch.setattr(SmaxBatch, "max_steps", 3)
    games = batch({}, {}, {})
    games.reset([0, 1, 2])
    for _ in range(3):
        now = games.step(np.full((3, MOST), STOP))
    assert now.truncated.all()
    assert not now.terminated.any()


def test_fixed_tasks_repeat_their_units_and_spawns_and_drawn_ones_do_not():
    def start(vary):
        games = batch(*[{"vary": vary, "allies": 6, "enemies": 6}] * 3)
        games.reset([1, 2, 3])
        return games.known["kind"][:, :6], games.known["position"][:, :6]

    kinds, positions = start(vary=False)
    assert (kinds == kinds[0]).all()
    assert (positions == positions[0]).all()
    kinds, positions = start(vary=True)
    assert (kinds != kinds[0]).any()
    assert (positions[1] != positions[0]).any()


def test_nobody_begins_where_a_wall_kills():
    games = batch(*[{"vary": True, "allies": 12, "enemies": 12}] * 3)
    for seed in range(0, 120, 3):
        now = games.reset([seed, seed + 1, seed + 2])
        position = games.known["position"]
        assert ((position >= WALL) & (position <= MAP - WALL)).all()
        assert abs(now.observations).max() <= 1.0


@pytest.mark.parametrize("family", [PROTOSS, ALL], ids=lambda f: f.name)
def test_tasks(family):
    trained = [json.dumps(dict(t.parameters)) for t in family.training_tasks]
    held_out = [json.dumps(dict(t.parameters)) for t in family.held_out_tasks]
    assert len({*trained, *held_out}) == len(trained) + len(held_out)
    seeds = [t.parameters["seed"] for t in family.held_out_tasks]
    assert len(set(seeds)) == len(seeds)  # or the units of one were the first of another
    task = family.held_out_tasks[3]
    again = Task(**json.loads(json.dumps(task.to_json())))
    envs = [family.make_env(task) for task in (task, again)]
    first, second = (np.stack(list(env.reset(seed=5)[0].values())) for env in envs)
    assert (first == second).all()
    sizes = {t.parameters["allies"] for t in family.held_out_tasks}
    assert {3, 4, 6, 8, 9, 10, 11, 12} <= sizes <= set(range(3, 13))
    assert family.spec.n_agents == MOST
    assert family.spec.max_steps == MAX_STEPS


def test_refused():
    with pytest.raises(UserError, match=f"race is one of {', '.join(RACES)}"):
        batch({"race": "human"})
    with pytest.raises(UserError, match="expected allies, enemies, race, seed, vary"):
        Smax(race="terran")
    with pytest.raises(UserError, match="1 to 12"):
        batch({"allies": 13})


def test_the_commander_reaches_four_fifths_of_the_maximum():
    episodes = play(PROTOSS, PROTOSS.training_tasks[0], 0.0, [(0, e) for e in range(8)])
    assert episodes.agent_mask.sum(1).tolist() == [5] * 8
    assert episodes.rewards.sum(1).mean() > 1.6
    assert np.allclose(episodes.individual_rewards.sum(2), episodes.rewards, atol=1e-6)


def test_what_the_enemies_do_is_to_attack_the_nearest():
    """A unit at the middle of the map's west side that sees three enemies, the second nearest."""
    unit = np.zeros(smax.OBSERVATION_SIZE, np.float32)
    own = LAYOUT.own[0]
    unit[own + 1 : own + 3] = 0.1, 0.5
    none = np.r_[np.ones(5, bool), np.zeros(MOST, bool)]

    def act(mask, seed=0):
        return attack_nearest(unit, mask, "ally_0", np.random.default_rng(seed))

    assert act(none) == 1  # sees nobody: east, to the middle
    for enemy, offset in ((0, (-0.5, 0.0)), (3, (0.1, -0.2)), (7, (-0.4, 0.1))):
        start = LAYOUT.enemies[0] + enemy * LAYOUT.enemies[2]
        unit[start : start + 3] = 1.0, *offset
    assert act(np.r_[np.ones(5, bool), np.isin(np.arange(MOST), [0, 3, 7])]) == 5 + 3
    assert act(np.r_[np.ones(5, bool), np.isin(np.arange(MOST), [0, 7])]) == 5 + 7
    assert {act(none, seed) for seed in range(20)} == {2, 3}  # out of range: towards one of them


def test_which_script_is_better_depends_on_the_task():
    """By the task alone nobody can tell; what was tried before does."""
    family = replace(get_family("smax_terran"), at_once=8)  # compiled for 8 games already
    five, _, ten = family.training_tasks
    reached = {
        (task.name, policy): play(family, task, 0.0, [(e,) for e in range(40)], policy).rewards
        for task in (five, ten)
        for policy in ("policy0", "expert")
    }
    mean = {key: rewards.sum(1).mean() for key, rewards in reached.items()}
    assert mean[five.name, "expert"] > 1.9 > 1.2 > mean[five.name, "policy0"]
    assert mean[ten.name, "policy0"] > mean[ten.name, "expert"]


@pytest.mark.parametrize("encoder", ["flat", "entities"])
def test_models_of_5v5_and_10v11_act_in_3v3_and_12v12(tmp_path, encoder):
    tasks = [PROTOSS.training_tasks[i] for i in (0, 2)]
    played = [play(PROTOSS, task, 0.5, [(1, e) for e in range(2)]) for task in tasks]
    path = tmp_path / "episodes.h5"
    behaviours = [Behaviour("expert", 0.5, 0.5, 0.5)]
    write_episodes(path, concatenate(played), PROTOSS.spec, tasks, behaviours)
    dataset = EpisodeFile(path)
    small = {"width": 16, "layers": 2, "heads": 2, "encoder": encoder}
    embedding = Embedding(PROTOSS.spec, EmbeddingConfig(attention="factored", **small))
    decision = DecisionTransformer(PROTOSS.spec, DecisionConfig(k=2, record=0, **small))
    embedding.total(embedding.losses(team_batch(dataset.read(), (0.0, 2.0)).trimmed())).backward()
    grown = {n for n, p in embedding.named_parameters() if p.grad is None or not p.grad.any()}
    assert not {n for n in grown if n.startswith(("encoders", "action_head", "dynamics_head"))}
    stored = slices(dataset.read(), (0.0, 2.0))
    seen = stored.trajectories.observations[:].any(-1)
    assert seen[stored.trajectories.step_mask].all()  # the dead have no steps
    assert stored.trajectories.step_mask.sum() == seen.sum() < dataset.read().length.sum() * 15 / 2
    keys = offline_keys(embedding, dataset, tmp_path)
    games = batch({"allies": 3, "enemies": 3}, {"allies": 12, "enemies": 12}, {})
    team = Team(
        PROTOSS.spec, embedding, decision, offline_memory(keys, stored, PROTOSS.spec),
        MemoryConfig(), [0, 1, 2], agent_mask=games.agent_mask,
    )  # fmt: skip
    now = games.reset([0, 1, 2])
    while not now.done.all():
        actions = team.act(now.observations, now.action_mask)
        playing = games.agent_mask & ~now.done[:, None]
        assert np.take_along_axis(now.action_mask, actions[..., None], 2)[playing].all()
        now = games.step(actions)
        team.observe(actions, now.rewards, now.done)
    assert team.episode == 1


def test_without_jaxmarl_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxmarl.environments.smax", None)
    monkeypatch.setattr(smax, "_engine", smax._Engine)
    with pytest.raises(UserError, match=r'pip install "maicc\[smax\]"'):
        batch({}).reset([0])
