"""The record in a team: what it reads, keeps, and draws."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from maicc.baselines.trained import TrainedMAICC
from maicc.config import MaiccAdapt, MemoryConfig
from maicc.evaluation import adapt as adaptation
from maicc.evaluation.adapt import adapt, play_episode
from maicc.evaluation.context_value import context_value
from maicc.experiments.run import run
from maicc.files import ModelFiles
from maicc.teams.choices import sample_alike
from tests.conftest import tiny_config
from tests.teams import FAMILY, SEEDS, check_lock_step, make_env, untrained


@pytest.fixture(scope="module")
def models(tiny_run):
    """Trained models with other, untrained decision models that read records."""
    trained = TrainedMAICC(ModelFiles.in_folder(tiny_run), FAMILY.spec, "cpu")

    def with_model(**changes) -> TrainedMAICC:
        other = copy.copy(trained)
        other.decision = untrained(FAMILY.spec, **changes)
        return other

    return with_model


@pytest.mark.slow
@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("capacity", [0, 3])
def test_lock_step_equals_agents_on_their_own(models, k, capacity):
    """Of more episodes than a record holds, also where the memory is bounded."""
    memory = MemoryConfig(schedule="until_solved", max_episodes=capacity)
    check_lock_step(models(record=2, k=k), memory, episodes=5)


def test_a_record_ends_with_its_agents_death_in_teams_of_any_size(models):
    """The second run has two agents; agent 1 of each run dies before step 4."""
    trained, there = models(record=2, k=0), np.array([[1, 1, 1], [1, 1, 0], [1, 1, 1]], bool)
    team, env = trained.team(SEEDS, MaiccAdapt(), agent_mask=there), make_env()
    for episode in range(3):
        now, step = env.reset([episode] * 3), 0
        while not now.done.all():
            alive, mask = there.copy(), now.action_mask.copy()
            if step >= 4:
                alive[:, 1], mask[:, 1], mask[:, 1, 0] = False, False, True
            actions = team.act(now.observations, mask, alive)
            now, step = env.step(actions), step + 1
            team.observe(actions, now.rewards, now.done)
    stored = team.online.trajectories.step_mask
    assert len(stored) == 8  # rows are the agents that are there
    lived = stored[np.arange(8)[:, None], team.online.choose(2, 1.0)].sum((1, 2))
    now = env.reset([9] * 3)
    team.act(now.observations, now.action_mask, there)
    seen = team._seen.visible.sum(1) - 1  # but for the token of the running step
    assert seen.tolist() == lived.tolist()
    assert (lived[[1, 4, 6]] == 8).all()  # four steps in each of two episodes
    assert (lived[[0, 2, 3, 5, 7]] > 8).all()


@pytest.mark.slow
@pytest.mark.parametrize("redraw", ["step", "episode"])
def test_agents_who_share_their_draws_need_no_message(models, redraw):
    memory = MemoryConfig(schedule="until_solved", draws="shared", redraw=redraw)
    trained = models(record=2, k=3)
    check_lock_step(trained, memory, episodes=3)
    team, env = trained.team(SEEDS, MaiccAdapt(memory=memory)), make_env()
    play_episode(team, env, [0] * 3)
    drawn = np.stack([team._draws.action, team._draws.explore, team._draws.memory])
    by_run = drawn.reshape(3, 3, 3, -1)
    assert (by_run == by_run[:, :, :1]).all()  # of all agents alike
    assert (by_run[:, 0] != by_run[:, 1]).all()  # of no two runs
    assert (np.ptp(drawn, axis=-1) == 0).all() == (redraw == "episode")
    targets = team._draws.target.reshape(3, 3, -1)
    assert (targets == targets[:, :1]).all()
    play_episode(team, env, [0] * 3)
    assert (team._draws.action != drawn[0]).all()  # of no two episodes


def test_agents_with_the_same_numbers_choose_alike_and_as_their_model_says():
    rng, n = np.random.default_rng(0), 20_000
    logits = np.array([1.0, 0.0, -np.inf, 0.5, -1.0])
    draws, each = rng.random((n, 5)), np.arange(5)
    chosen = sample_alike(np.tile(logits, (n, 1)), draws, each)
    expected = np.exp(logits) / np.exp(logits).sum()
    assert np.bincount(chosen, minlength=5) / n == pytest.approx(expected, abs=0.015)
    # an agent who likes the last four as much, and the first less, leaves none of them
    other = sample_alike(np.tile(logits - [2.0, 0, 0, 0, 0], (n, 1)), draws, each)
    assert (other[chosen > 0] == chosen[chosen > 0]).all()


def test_of_the_actions_without_a_target_the_likeliest_is_taken():
    rng, n = np.random.default_rng(0), 20_000
    logits = np.tile([1.0, 0.9, 0.0, 0.0], (n, 1))
    chosen = sample_alike(logits, rng.random((n, 3)), np.array([0, 0, 1, 2]))
    expected = np.exp([1.0, -np.inf, 0.0, 0.0])
    expected = expected / expected.sum()
    assert np.bincount(chosen, minlength=4) / n == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize(
    ("changes", "memory"),
    [({}, {}), ({"record_steps": 10}, {}), ({}, {"cache_gib": 0.0}), ({}, {"max_episodes": 3})],
    ids=["roomy", "thinned", "full", "bounded"],
)
def test_a_team_decides_as_the_model_does_without_anything_kept(models, changes, memory):
    """Also while some agents have no choice to make."""
    trained = models(record=2, k=0, **changes)
    team, env = trained.team(SEEDS, MaiccAdapt(memory=MemoryConfig(**memory))), make_env()
    for episode in range(5):
        play_episode(team, env, [episode] * 3)
    now = env.reset([9] * 3)
    past, logits = team.online.trajectories, team.logits
    row, slot = np.arange(9)[:, None], team.online.choose(2, 1.0)
    episodes = past.each(lambda part: torch.from_numpy(part[row, slot]).flatten(0, 1))
    shown = torch.arange(18).view(9, 2)

    def both(active):
        kept = logits(active)
        current = team._current(active)
        none = current.take(torch.empty(len(active), 0, dtype=torch.long))
        direct = trained.decision(current, none, record=episodes, shown=shown[active])
        assert np.allclose(kept, direct[:, -1].numpy(), atol=1e-5)
        return kept

    team.logits = both
    for _ in range(4):
        mask = now.action_mask.copy()
        mask[1, 0, 1:], mask[1, 0, 0] = False, True
        actions = team.act(now.observations, mask)
        now = env.step(actions)
        team.observe(actions, now.rewards, now.done)


@pytest.mark.slow
def test_an_interrupted_adaptation_equals_an_unbroken_one(models, tmp_path, monkeypatch):
    trained, tasks = models(record=2, k=3), FAMILY.draw_tasks(2, 0)
    config = MaiccAdapt(episodes=6, memory=MemoryConfig(schedule="until_solved"))
    whole = adapt(trained, FAMILY, tasks, config, seed=0)
    real = adaptation.play_episode

    def ctrl_c(team, env, seeds, **options):
        if team.episode == 4:
            raise KeyboardInterrupt
        return real(team, env, seeds)

    monkeypatch.setattr(adaptation, "play_episode", ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        adapt(trained, FAMILY, tasks, config, 0, tmp_path / "kept.npz")
    monkeypatch.setattr(adaptation, "play_episode", real)
    assert adapt(trained, FAMILY, tasks, config, 0, tmp_path / "kept.npz") == whole


@pytest.mark.slow
@pytest.mark.parametrize("record", [0, 2])
@pytest.mark.parametrize("source", ["other_tasks", "own"])
def test_a_run_with_a_record(tmp_path, record, source):
    config = tiny_config()
    model = dataclasses.replace(config.decision.model, record=record, labels="expert")
    config.decision.model, config.decision.retrieval.source = model, source
    if source == "own":
        config.adapt.memory.source = "own"
    config.adapt.memory.schedule = "until_solved"
    run(config, tmp_path)
    value = context_value(ModelFiles.in_folder(tmp_path), batches=1)
    assert set(value) == {"retrieved", "of other queries"}
