"""The lock-step team is nothing but N agents that share nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from maicc import load_team
from maicc.baselines.trained import TrainedMAICC
from maicc.config import DecisionConfig, MaiccAdapt, MemoryConfig
from maicc.envs import get_family
from maicc.evaluation.adapt import play_episode
from maicc.evaluation.run_folder import read_config
from maicc.files import ModelFiles
from maicc.teams.team import Team
from maicc.training.fit import seeded
from maicc.training.modules import DecisionModule
from maicc.types import Retrieval, UserError
from tests.teams import FAMILY, SEEDS, check_lock_step, make_env


@pytest.fixture(scope="module")
def models(tiny_run) -> TrainedMAICC:
    return TrainedMAICC(ModelFiles.in_folder(tiny_run), FAMILY.spec, "cpu")


MEMORIES = [
    MemoryConfig(schedule="evidence"),
    MemoryConfig(schedule="decay", toss="episode", score="code", alpha=0.8),
    MemoryConfig(schedule="fixed", beta=0.3, score="random"),
]


@pytest.mark.slow
@pytest.mark.parametrize("memory", MEMORIES, ids=["evidence", "decay", "random"])
def test_lock_step_equals_agents_on_their_own(models, memory):
    check_lock_step(models, memory, episodes=6)


def test_the_seed_gives_the_actions(models):
    def actions(seeds):
        team, env, log = models.team(seeds), make_env(), []
        now = env.reset([1, 2, 3])
        while not now.done.all():
            log.append(team.act(now.observations, now.action_mask))
            now = env.step(log[-1])
            team.observe(log[-1], now.rewards, now.done)
        return np.stack(log).tolist()

    assert actions(SEEDS) == actions(SEEDS) != actions([1, 2, 3])


def test_a_team_looks_up_as_its_options_say(models):
    how = MemoryConfig(schedule="evidence", score="code", alpha=0.3, margin=0.1, candidates=20)
    memory = models.team([1], MaiccAdapt(10, memory=how)).memory
    told = memory.score, memory.alpha, memory.margin, memory.candidates, memory.own_only
    assert told == ("code", 0.3, 0.1, 20, False)


def test_only_legal_actions(models):
    team, env = models.team(SEEDS), make_env()
    for episode in range(2):
        now = env.reset([episode] * 3)
        while not now.done.all():
            actions = team.act(now.observations, now.action_mask)
            legal = np.take_along_axis(now.action_mask, actions[..., None], 2)[..., 0]
            assert legal[~now.done].all()
            now = env.step(actions)
            team.observe(actions, now.rewards, now.done)


def test_who_has_one_legal_action_takes_it_and_the_others_act_as_ever(models):
    free, forced, env = models.team(SEEDS), models.team(SEEDS), make_env()
    asked, logits = [], forced.logits

    def counted(active):
        asked.append(len(active))
        return logits(active)

    forced.logits = counted
    now = env.reset([1, 2, 3])
    for step in range(6):
        mask = now.action_mask.copy()
        whom = slice(None) if step == 3 else 1
        mask[:, whom], mask[:, whom, 0] = False, True
        unforced = free.act(now.observations, now.action_mask)
        actions = forced.act(now.observations, mask)
        assert (actions[:, whom] == 0).all()
        if step != 3:
            assert (actions[:, [0, 2]] == unforced[:, [0, 2]]).all()
        now = env.step(actions)
        for team in (free, forced):
            team.observe(actions, now.rewards, now.done)
    assert asked == [6, 6, 6, 9, 6, 6]


def test_what_an_agent_stores_ends_with_its_death_and_knows_how_the_team_fared(models):
    team, env = models.team(SEEDS), make_env()
    now, total, step = env.reset([1, 2, 3]), np.zeros(3), 0
    while not now.done.all():
        alive, mask = now.alive.copy(), now.action_mask.copy()
        if step >= 4:  # agent 1 is dead
            alive[:, 1], mask[:, 1], mask[:, 1, 0] = False, False, True
        actions, playing = team.act(now.observations, mask, alive), ~now.done
        now, step = env.step(actions), step + 1
        rewards = now.rewards + 0.05
        total += rewards * playing
        team.observe(actions, rewards, now.done)
    stored = team.memory.online.trajectories.take((slice(None), 0))
    length = stored.step_mask.sum(1).reshape(3, 3)
    assert (length[:, 1] == 4).all()
    assert (length[:, [0, 2]] > 4).all()
    assert np.allclose(stored.rewards.sum(1), np.repeat(total, 3), atol=1e-5)
    assert np.allclose(stored.return_to_go[:, 0], np.repeat(total, 3), atol=1e-5)
    assert stored.done[1::3, 3].all()


def test_what_an_agent_stores_is_what_it_lived(models):
    team, env = models.team(SEEDS), make_env()
    returns = play_episode(team, env, [1, 2, 3])
    memory = team.memory.online
    assert team.episode == 1
    stored = memory.trajectories.take((slice(None), 0))
    assert np.allclose(stored.rewards.sum(1), np.repeat(returns, 3))
    assert np.allclose(stored.return_to_go[:, 0], np.repeat(returns, 3))
    assert np.allclose(memory.team_return[:, 0], np.repeat(returns, 3) / 2)
    assert np.allclose(memory.history[:, 0], np.repeat(returns, 3) / 2)
    assert (stored.done.sum(1) == 1).all()
    # keys made along the way are those of the finished trajectories
    tensors = stored.each(lambda part: torch.from_numpy(np.ascontiguousarray(part)))
    keys = models.embedding.keys(tensors).vectors.numpy()
    assert np.allclose(memory.keys[:, 0][stored.step_mask], keys[stored.step_mask], atol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"cache_gib": 0.0}, {"max_episodes": 3}], ids=["roomy", "full", "bounded"]
)
def test_cached_decisions_equal_uncached_ones(models, options):
    """Each step anew, from the first token on, with every context encoded again."""
    team = models.team(SEEDS, MaiccAdapt(memory=MemoryConfig(**options)))
    env, checked, found = make_env(), [], {}
    retrieve, logits = team.memory.retrieve, team.logits

    def remembered(rows, step, *others):
        found[step] = rows, retrieve(rows, step, *others)
        return found[step][1]

    def both(active):
        kept = logits(active)
        rows, seen = team._reading, None
        for step in range(team._step + 1):
            asked, retrieval = found[step]
            asking = np.isin(asked, rows)
            contexts = team.memory.contexts(rows, Retrieval(*(part[asking] for part in retrieval)))
            flat = contexts.each(lambda part: part.reshape(-1, *part.shape[2:]))
            read = team.decision.encode_contexts(team._tensors(flat))
            number = torch.arange(len(rows) * 3).view(-1, 3)
            first = max(step - 1, 0)
            two = team._current(rows, first).take(np.s_[:, : step - first + 1])
            anew, seen = team.decision.extend(
                two, team.decision.encoders.observation(two.observations), step, seen,
                read.joined(number),
            )  # fmt: skip
        assert np.allclose(kept, anew.numpy()[np.isin(rows, active)], atol=1e-5)
        checked.append(len(active))
        return kept

    team.memory.retrieve, team.logits = remembered, both
    returns = [play_episode(team, env, [episode] * 3) for episode in range(4)]
    assert len(checked) > 30
    assert team.episode == 4
    assert np.allclose(team.returns, np.stack(returns, 1), atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        DecisionConfig(k=0, record=0),
        DecisionConfig(tokens="four", context="concatenated", k=3, record=0),
    ],
    ids=["no context", "the paper's"],
)
def test_other_decision_models_act_too(models, config):
    with seeded(0):
        small = dataclasses.replace(config, width=16, layers=1, heads=2)
        decision = DecisionModule(FAMILY.spec, small).net
    team = Team(models.spec, models.embedding, decision, models.offline, MemoryConfig(), SEEDS)
    for episode in range(5):
        play_episode(team, make_env(), [episode] * 3)
    assert team.episode == 5


def test_only_until_solved_strives_for_ones_own_best_where_bounds_are_unknown(models):
    """Other schedules would repeat poor episodes, whose return is merely the best so far."""
    for schedule, repeated in (("until_solved", True), ("evidence", False)):
        memory = MemoryConfig(schedule=schedule)
        team = Team(
            models.spec, models.embedding, models.decision, models.offline, memory, SEEDS,
            states_bounds=False,
        )  # fmt: skip
        returns = play_episode(team, make_env(), [1, 2, 3])
        assert 0 < returns.max() < 1.9
        assert (team.replayable() >= 0).any() == repeated


def test_a_single_team_by_hand(tiny_run):
    """The dozen lines of the README."""
    team, env = (
        load_team(tiny_run, seed=0),
        FAMILY.make_env(FAMILY.task(size=7, food=[2, 4], max_steps=15)),
    )
    for episode in range(2):
        observations, infos = env.reset(seed=episode)
        while env.agents:
            agents = list(env.agents)
            actions = team.act(
                np.stack([observations[a] for a in agents]),
                np.stack([infos[a]["action_mask"] for a in agents]),
            )
            observations, rewards, *_, infos = env.step(dict(zip(agents, actions, strict=True)))
            team.observe(actions, sum(rewards.values()), not env.agents)
    assert team.episode == 2


def test_refused(models):
    now = make_env().reset([1, 2, 3])
    team = models.team(SEEDS)
    with pytest.raises(UserError, match="observe was called before act"):
        team.observe(np.zeros((3, 3)), np.zeros(3), np.zeros(3))
    with pytest.raises(
        UserError, match=r"observations has shape \(3, 3, 5\), expected \(3, 3, 8\)"
    ):
        team.act(now.observations[..., :5], now.action_mask)
    with pytest.raises(UserError, match=r"action_mask has shape"):
        team.act(now.observations, now.action_mask[..., :4])
    with pytest.raises(UserError, match="3 runs act together"):
        team.act(now.observations[0], now.action_mask[0])
    with pytest.raises(UserError, match="observations must be finite"):
        team.act(now.observations * np.nan, now.action_mask)
    with pytest.raises(UserError, match="allows an agent no action"):
        models.team(SEEDS).act(now.observations, now.action_mask & False)
    actions = team.act(now.observations, now.action_mask)
    with pytest.raises(UserError, match="act was called twice"):
        team.act(now.observations, now.action_mask)
    for wrong in (np.nan, 1e39):  # which is infinite in single precision
        with pytest.raises(UserError, match="rewards must be finite"):
            team.observe(actions, np.array([0, wrong, 0]), np.zeros(3))
    for wrong in (99, -1):
        with pytest.raises(UserError, match="expected numbers from 0 to 5"):
            team.observe(np.full((3, 3), wrong), np.zeros(3), np.zeros(3))
    for arrays, message in (
        ((actions[:2], np.zeros(3), np.zeros(3)), "actions has 6 numbers, expected 9"),
        ((actions, np.zeros(2), np.zeros(3)), "rewards has 2 numbers, expected 3"),
        ((actions, np.zeros(3), True), "done has 1 numbers, expected 3"),
    ):
        with pytest.raises(UserError, match=message):
            team.observe(*arrays)
    with pytest.raises(UserError, match="needs the number of episodes in advance"):
        Team(
            models.spec, models.embedding, models.decision, models.offline,
            MemoryConfig(schedule="decay"), SEEDS,
        )  # fmt: skip
    with pytest.raises(UserError, match="k=3 trajectories can't be chosen from 2 candidates"):
        models.team(SEEDS, MaiccAdapt(memory=MemoryConfig(candidates=2)))


def test_models_of_another_family_are_refused(tiny_run):
    with pytest.raises(UserError, match="made for another family"):
        TrainedMAICC(ModelFiles.in_folder(tiny_run), get_family("lbf_9x9").spec)


def test_the_best_of_the_dataset_stands_in_for_the_maximum(models, monkeypatch):
    monkeypatch.setattr(models.offline, "team_return", models.offline.team_return * 0.6)
    team = models.team([0], MaiccAdapt(memory=MemoryConfig(goal="dataset")))
    team.memory.online.history = np.full((3, 1), 0.3, np.float32)
    team._begin_episode()
    assert np.allclose(team._mixture.offline, 0.5, atol=1e-3)


@pytest.mark.slow
def test_teams_of_different_size_joined(models):
    """Two agents in one run and three in another act as they would with nobody beside them."""
    env = make_env(2)
    there = np.array([[True, True, False], [True, True, True]])
    together = models.team([5, 6], agent_mask=there)
    alone = [models.team([5 + r], agent_mask=there[[r]]) for r in range(2)]
    for episode in range(5):
        now = env.reset([episode] * 2)
        while not now.done.all():
            actions = together.act(now.observations, now.action_mask)
            running = np.flatnonzero(~now.done)
            for r in running:
                own = alone[r].act(now.observations[[r]], now.action_mask[[r]])
                assert np.array_equal(own[0], actions[r])
            assert actions[0, 2] == 0
            now = env.step(actions)
            together.observe(actions, now.rewards, now.done)
            for r in running:
                alone[r].observe(actions[[r]], now.rewards[[r]], now.done[[r]])
    assert together.memory.online.team_return.shape[0] == 5
    with pytest.raises(UserError, match="with an agent in every run"):
        models.team([5], agent_mask=np.zeros((1, 3), bool))


def test_a_loaded_team_may_be_smaller(tiny_run, models):
    now = make_env(1).reset([3])
    there = np.array([[True, True, False]])
    adapt = read_config(tiny_run).adapt
    expected = models.team([4], adapt, agent_mask=there).act(now.observations, now.action_mask)
    team = load_team(tiny_run, seed=4, agents=2)
    actions = team.act(now.observations[0, :2], now.action_mask[0, :2])
    assert actions.tolist() == expected[0, :2].tolist()
    with pytest.raises(UserError, match="agents=4 must be 1 to 3"):
        load_team(tiny_run, agents=4)


def test_a_team_that_has_lost_its_way_looks_for_it_again(models):
    team = models.team([0, 1], MaiccAdapt(memory=MemoryConfig(schedule="evidence", window=2)))
    returns = np.array([[1.0, 0.5, 0.25], [0.0, 0.0, 1.0]], np.float32)  # of two runs
    team.memory.online.history = returns.repeat(3, 0)
    team._begin_episode()
    assert np.allclose(team._mixture.offline, np.repeat([0.5, 0.005], 3))
