from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from maicc.baselines.trained import TrainedMAICC
from maicc.config import MaiccAdapt, MemoryConfig
from maicc.envs import get_family
from maicc.evaluation import adapt as module
from maicc.evaluation.adapt import adapt, adapt_folder
from maicc.evaluation.stats import summary
from maicc.files import ModelFiles, write_arrays
from maicc.types import OutsideError, UserError

FAMILY = get_family("lbf_7x7")


@pytest.fixture(scope="module")
def models(tiny_run) -> TrainedMAICC:
    return TrainedMAICC(ModelFiles.in_folder(tiny_run), FAMILY.spec, "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"schedule": "decay"}, {"max_episodes": 3}])
def test_an_interrupted_adaptation_equals_an_unbroken_one(models, tmp_path, monkeypatch, options):
    config = MaiccAdapt(episodes=7, memory=MemoryConfig(**options))
    tasks = FAMILY.draw_tasks(2, 0)
    whole = adapt(models, FAMILY, tasks, config, seed=0)

    real, kept = module.play_episode, tmp_path / "kept.npz"
    for stop_at in (2, 5):

        def ctrl_c(team, env, seeds, stop_at=stop_at, **options):
            if team.episode == stop_at:
                now = env.reset(seeds)
                team.act(now.observations, now.action_mask)  # in the middle of an episode
                raise KeyboardInterrupt
            return real(team, env, seeds, **options)

        monkeypatch.setattr(module, "play_episode", ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            adapt(models, FAMILY, tasks, config, 0, kept)
    monkeypatch.setattr(module, "play_episode", real)
    assert adapt(models, FAMILY, tasks, config, 0, kept) == whole


@pytest.mark.parametrize("most", [0, 2])
def test_killed_between_storing_and_noting(models, tmp_path, monkeypatch, most):
    """An episode that is in the memory but not yet among the returns is played again."""
    config = MaiccAdapt(episodes=4, memory=MemoryConfig(max_episodes=most))
    tasks, kept = FAMILY.draw_tasks(2, 0), tmp_path / "kept.npz"
    whole = adapt(models, FAMILY, tasks, config, seed=0)
    real = module.play_episode

    def ctrl_c(team, env, seeds, **options):
        result = real(team, env, seeds, **options)
        if team.episode == 3:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(module, "play_episode", ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        adapt(models, FAMILY, tasks, config, 0, kept)
    monkeypatch.setattr(module, "play_episode", real)
    assert adapt(models, FAMILY, tasks, config, 0, kept) == whole


def test_an_episode_that_broke_off_is_played_again(models, monkeypatch):
    config, tasks = MaiccAdapt(episodes=4), FAMILY.draw_tasks(2, 0)
    whole, real, played = adapt(models, FAMILY, tasks, config, seed=0), module.batch_env, []

    def breaks_off(*arguments):
        env = real(*arguments)
        step = env.step

        def broken(actions):
            now = step(actions)
            played.append(1)
            env.crashed[1] = len(played) in (3, 20)
            return now

        env.step = broken
        return env

    monkeypatch.setattr(module, "batch_env", breaks_off)
    assert adapt(models, FAMILY, tasks, config, seed=0) == whole
    assert len(played) > 20


def test_a_result_that_is_there_meanwhile_is_not_made_again(tiny_run, tmp_path):
    """By another process, for whose lock this one has waited."""
    out = tmp_path / "a.json"
    out.write_text("{}")
    with pytest.raises(UserError, match="is there already"):
        adapt_folder(tiny_run, MaiccAdapt(episodes=1, runs=1), 0, out)
    assert out.read_text() == "{}"


def test_tasks_that_were_trained_on_are_not_held_out(tiny_run, tmp_path, monkeypatch):
    training, held_out = dict(FAMILY.training), dict(FAMILY.held_out)
    (trained, one), (new, other) = training.popitem(), held_out.popitem()
    swapped = dataclasses.replace(
        FAMILY, training=training | {new: other}, held_out=held_out | {trained: one}
    )
    monkeypatch.setattr(module, "get_family", lambda name: swapped)
    with pytest.raises(UserError, match="other training tasks"):
        adapt_folder(tiny_run, MaiccAdapt(episodes=1, runs=1), 0, tmp_path / "a.json")


def test_result(models):
    tasks = [FAMILY.held_out_tasks[0], FAMILY.training_tasks[0]]
    result = adapt(models, FAMILY, tasks, MaiccAdapt(episodes=3), seed=4)
    assert (result["schema"], result["family"], result["episodes"]) == (1, "lbf_7x7", 3)
    assert [run["held_out"] for run in result["runs"]] == [True, False]
    assert [run["seed"] for run in result["runs"]] == [4000, 4001]
    assert result["runs"][0]["task"] == tasks[0].to_json()
    returns = np.array([run["returns"] for run in result["runs"]])
    assert returns.shape == (2, 3)
    assert result["summary"] == pytest.approx(summary(returns), abs=1e-5)


def test_refused(models):
    for config, tasks in ((MaiccAdapt(episodes=0), FAMILY.draw_tasks(1, 0)), (MaiccAdapt(), [])):
        with pytest.raises(UserError, match="must be at least 1"):
            adapt(models, FAMILY, tasks, config, seed=0)


def test_another_order_of_agents_than_that_of_the_dataset_is_refused(models, monkeypatch):
    assert list(models.rosters) == FAMILY.rosters()
    turned = [roster[::-1] for roster in models.rosters]
    monkeypatch.setattr(models, "rosters", turned)
    with pytest.raises(UserError, match=r"in another process and is .* here; give the agents a"):
        adapt(models, FAMILY, FAMILY.draw_tasks(1, 0), MaiccAdapt(episodes=1), seed=0)


def test_what_is_refused_leaves_no_environment_open(models, tmp_path):
    opened = []

    def make(**parameters):
        env = FAMILY.make(**parameters)
        opened.append(env)
        env.close = lambda: opened.remove(env)
        return env

    family = dataclasses.replace(FAMILY, make=make)
    tasks, kept = FAMILY.draw_tasks(2, 0), tmp_path / "kept.npz"
    write_arrays(kept, {"identity": np.array("another")})
    with pytest.raises(UserError, match="with other models or settings"):
        adapt(models, family, tasks, MaiccAdapt(episodes=1), 0, kept)
    assert opened == []


def test_returns_outside_the_bounds_are_refused(models):
    lower = dataclasses.replace(FAMILY, return_bounds=(-2.0, -1.0))
    with pytest.raises(UserError, match=r"lbf_7x7, episode 0: returns from .* outside"):
        adapt(models, lower, FAMILY.draw_tasks(1, 0), MaiccAdapt(episodes=2), seed=0)


def test_what_was_played_before_the_game_broke_off_is_kept(models, tmp_path, monkeypatch):
    config, kept, real = MaiccAdapt(episodes=3), tmp_path / "kept.npz", module.play_episode
    tasks = FAMILY.draw_tasks(2, 0)
    whole = adapt(models, FAMILY, tasks, config, seed=0)

    def breaks_off(team, *args, **options):
        if team.episode == 2:
            raise OutsideError("the game broke off")
        return real(team, *args, **options)

    monkeypatch.setattr(module, "play_episode", breaks_off)
    with pytest.raises(OutsideError):
        adapt(models, FAMILY, tasks, config, 0, kept)
    played = []
    monkeypatch.setattr(module, "play_episode", lambda *a, **k: played.append(1) or real(*a, **k))
    assert adapt(models, FAMILY, tasks, config, 0, kept) == whole
    assert len(played) == 1
