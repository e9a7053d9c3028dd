from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from maicc.config import CollectConfig
from maicc.data import collect as module
from maicc.data import processes as module_processes
from maicc.data.behaviour import calibrate, episode_count, legal_labels, play, play_trial
from maicc.data.collect import check_settings, collect, plan_of
from maicc.data.dataset import EpisodeFile
from maicc.data.episodes import FIELDS
from maicc.data.returns import share_of_maximum
from maicc.envs import get_family
from maicc.types import UserError

FAMILY = get_family("lbf_7x7")
SMALL = CollectConfig(episodes=4, levels=[0.5, 1.0], workers=1)


@pytest.mark.slow
def test_the_same_data_for_any_number_of_workers(tmp_path):
    collect(FAMILY, tmp_path / "one.h5", SMALL, seed=0)
    two = CollectConfig(SMALL.episodes, SMALL.levels, workers=2)
    collect(FAMILY, tmp_path / "two.h5", two, seed=0)
    one, two = EpisodeFile(tmp_path / "one.h5"), EpisodeFile(tmp_path / "two.h5")
    assert one.fingerprint == two.fingerprint
    assert len(one) == 9 * 2 * 4
    collect(FAMILY, tmp_path / "other.h5", SMALL, seed=1)
    assert EpisodeFile(tmp_path / "other.h5").fingerprint != one.fingerprint


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True])
def test_an_interrupted_collection_goes_on(tmp_path, monkeypatch, damaged):
    collect(FAMILY, tmp_path / "whole.h5", SMALL, seed=0)
    played = []
    real = module._play_unit

    def third_fails(*args, **kwargs):
        if len(played) == 2:
            raise KeyboardInterrupt
        played.append(args[1])
        real(*args, **kwargs)

    monkeypatch.setattr(module, "_play_unit", third_fails)
    with pytest.raises(KeyboardInterrupt):
        collect(FAMILY, tmp_path / "broken.h5", SMALL, seed=0)
    assert not (tmp_path / "broken.h5").exists()

    def not_again(*args, **kwargs):
        assert args[1] not in played
        real(*args, **kwargs)

    monkeypatch.setattr(module, "_play_unit", not_again)
    if damaged:
        (parts,) = tmp_path.glob("broken.h5.*.parts")
        (parts / "plan.json").write_text("{")
    else:
        monkeypatch.setattr(module, "plan_behaviours", None)  # its trials are not played again
    collect(FAMILY, tmp_path / "broken.h5", SMALL, seed=0)
    whole = EpisodeFile(tmp_path / "whole.h5")
    assert EpisodeFile(tmp_path / "broken.h5").fingerprint == whole.fingerprint
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken.h5", "whole.h5"]


@pytest.mark.slow
def test_calibration_reaches_the_level_aimed_at():
    tasks = FAMILY.training_tasks

    def reached_at(rate):
        trials = [play_trial(FAMILY, task, rate, 0) for task in range(len(tasks))]
        return share_of_maximum(np.concatenate(trials), FAMILY.return_bounds)

    rate = calibrate(reached_at, 0.5)
    reached = np.mean([
        play(FAMILY, task, rate, [(9, i, e) for e in range(40)]).rewards.sum(1).mean() / 2
        for i, task in enumerate(tasks)
    ])  # fmt: skip
    assert reached == pytest.approx(0.5, abs=0.08)
    assert calibrate(reached_at, 1.0) == 0.0
    assert calibrate(reached_at, 0.0) == 1.0


def test_episodes_obey_their_masks_and_lengths():
    episodes = play(FAMILY, FAMILY.training_tasks[2], 0.7, [(4, e) for e in range(20)])
    for e in range(20):
        for t in range(episodes.length[e]):
            for i in range(3):
                assert episodes.action_mask[e, t, i, episodes.actions[e, t, i]]
    assert episodes.rewards.sum(1) == pytest.approx(episodes.individual_rewards.sum((1, 2)))
    assert (episodes.terminated ^ episodes.truncated).all()
    assert (episodes.terminated == (episodes.rewards.sum(1) > 1.9)).all()


def test_what_the_expert_would_have_done_is_kept():
    """Its own actions where it plays; where others play, what it would do in that state."""
    task = FAMILY.training_tasks[4]
    own = play(FAMILY, task, 0.0, [(0, e) for e in range(4)])
    played = np.arange(15) < own.length[:, None]
    assert np.array_equal(own.expert_actions[played], own.actions[played])
    assert (own.expert_actions[~played] == -1).all()
    LOAD = 5
    for policy, rate in (("explorer", 0.0), ("expert", 0.6)):
        other = play(FAMILY, task, rate, [(0, e) for e in range(30)], policy)
        assert (other.expert_actions != other.actions).any()
        row, column = task.parameters["food"]
        together = 0
        for e in range(30):
            for t in range(other.length[e]):
                where = other.observations[e, t, :, 2:4]  # own row and column
                beside = np.abs(where - [row, column]).sum(1) == 1
                if beside.all():
                    assert (other.expert_actions[e, t] == LOAD).all()
                    together += 1
        assert together > 10
    nobody = dataclasses.replace(FAMILY, expert=None, explorer=None)
    assert (play(nobody, task, 1.0, [(0,)], "random").expert_actions == -1).all()


@pytest.mark.slow
def test_the_explorer_as_one_more_behaviour(tmp_path):
    config = CollectConfig(episodes=5, levels=[1.0], explorer=True, workers=1)
    collect(FAMILY, tmp_path / "x.h5", config, seed=0)
    file = EpisodeFile(tmp_path / "x.h5")
    assert [b.name for b in file.behaviours] == ["expert", "explorer"]
    returns = file.read().rewards.sum(1)
    explored = file.read().behaviour == 1
    assert explored.sum() == 45
    assert 0.5 < returns[explored].mean() < 1.9 < returns[~explored].mean()
    without = dataclasses.replace(FAMILY, explorer=None)
    with pytest.raises(UserError, match="has no scripted explorer"):
        collect(without, tmp_path / "y.h5", config, seed=0)


def test_an_annealed_expert_acts_at_random_ever_less_often(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "play_trial", None)  # nothing is played to find the rates
    config = CollectConfig(episodes=4, levels=[0.5, 1.0], anneal=5, explorer=True, workers=1)
    family = dataclasses.replace(FAMILY, training=dict(list(FAMILY.training.items())[:2]))
    collect(family, tmp_path / "x.h5", config, seed=0)
    file = EpisodeFile(tmp_path / "x.h5")
    assert [b.name for b in file.behaviours] == ["annealed"] * 5 + ["explorer"]
    assert [b.random_rate for b in file.behaviours] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert file.behaviours[4].reached == 1.0
    assert all(b.target == b.reached for b in file.behaviours)
    played = np.bincount(file.read().behaviour)
    assert played.tolist() == [2 * 2] * 5 + [2 * 4]  # 2 * 4 / 5 rounded, in each of two tasks
    assert episode_count(family, config) == len(file) == 28


def test_an_annealed_dataset_is_about_as_large():
    for anneal, episodes in ((0, 1000), (25, 1000), (3, 999), (7, 1001), (3000, 3000)):
        config = CollectConfig(anneal=anneal)
        assert episode_count(FAMILY, config) == 9 * episodes


@pytest.mark.parametrize(("anneal", "message"), [(-1, "at least 2"), (1, "at least 2")])
def test_too_few_annealed_levels_are_refused(anneal, message):
    with pytest.raises(UserError, match=message):
        check_settings(FAMILY, CollectConfig(anneal=anneal))


def test_only_an_expert_can_be_annealed():
    def family(*behaviours):
        return dataclasses.replace(FAMILY, expert=None, behaviours=list(behaviours))

    config = CollectConfig(anneal=5)
    for without in (family(), family(anywhere, north)):
        with pytest.raises(UserError, match="has no expert: give the family one, or set"):
            check_settings(without, config)
    check_settings(family(north), config)  # a single policy is used as an expert
    check_settings(FAMILY, config)


def test_annealed_levels_alone_change_the_folder_of_a_collection(tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_planned", stop)
    for anneal in (0, 5, 6):
        config = CollectConfig(episodes=4, levels=[0.5, 1.0], anneal=anneal)
        with pytest.raises(KeyboardInterrupt):
            collect(FAMILY, tmp_path / "x.h5", config, seed=0)
    before = [FAMILY.name, FAMILY.fingerprint, 4, [0.5, 1.0], ["expert"], 0, list(FIELDS)]
    digest = hashlib.sha256(json.dumps(before).encode()).hexdigest()[:8]
    assert (tmp_path / f"x.h5.{digest}.parts").exists()
    assert len(list(tmp_path.iterdir())) == 3
    monkeypatch.undo()
    collect(FAMILY, tmp_path / "x.h5", CollectConfig(episodes=1, levels=[1.0], workers=1), seed=0)
    assert list(tmp_path.iterdir()) == [tmp_path / "x.h5"], "no units of any of them are left"


@pytest.mark.parametrize(
    "config", [CollectConfig(episodes=0), CollectConfig(levels=[]), CollectConfig(levels=[1.5])]
)
def test_refused_settings(tmp_path, config):
    with pytest.raises(UserError, match=r"collect\."):
        collect(FAMILY, tmp_path / "x.h5", config, seed=0)
    assert list(tmp_path.iterdir()) == []


def north(observation, action_mask, agent, rng):
    return 1 if action_mask[1] else 0


def anywhere(observation, action_mask, agent, rng):
    return int(rng.choice(np.flatnonzero(action_mask)))


def collected(tmp_path, **changes):
    family = dataclasses.replace(FAMILY, expert=None, explorer=None, **changes)
    collect(family, tmp_path / "x.h5", SMALL, seed=0)
    return EpisodeFile(tmp_path / "x.h5")


def test_behaviours_from_worst_to_best_play_as_they_are(tmp_path):
    file = collected(tmp_path, behaviours=[anywhere, north])
    assert [b.name for b in file.behaviours] == ["policy0", "policy1"]
    assert [b.random_rate for b in file.behaviours] == [0.0, 0.0]
    episodes = file.read()
    second = episodes.actions[episodes.behaviour == 1]
    assert set(np.unique(second)) <= {0, 1}
    assert len(np.unique(episodes.actions[episodes.behaviour == 0])) == 6


@pytest.mark.slow
def test_behaviours_play_beside_the_expert_and_its_levels(tmp_path):
    family = dataclasses.replace(FAMILY, explorer=None, behaviours=north)
    collect(family, tmp_path / "x.h5", SMALL, seed=0)
    file = EpisodeFile(tmp_path / "x.h5")
    assert [b.name for b in file.behaviours] == ["policy0", *["expert"] * len(SMALL.levels)]
    assert [b.target for b in file.behaviours[1:]] == SMALL.levels
    episodes = file.read()
    assert set(np.unique(episodes.actions[episodes.behaviour == 0])) <= {0, 1}


@pytest.mark.slow
def test_an_only_behaviour_plays_at_every_level(tmp_path):
    file = collected(tmp_path, behaviours=anywhere)
    assert [b.target for b in file.behaviours] == SMALL.levels
    assert {b.name for b in file.behaviours} == {"expert"}


def test_without_behaviours_agents_act_at_random_and_the_data_tell_the_bounds(tmp_path):
    file = collected(tmp_path, return_bounds=None)
    returns = file.read().rewards.sum(1)
    assert (file.spec.return_min, file.spec.return_max) == (0.0, pytest.approx(returns.max()))
    (only,) = file.behaviours
    assert (only.name, only.random_rate) == ("random", 1.0)
    assert only.reached == pytest.approx(returns.mean() / returns.max(), abs=1e-3)
    assert len(file) == 9 * 4


def test_environments_that_are_costly_are_reset_again_and_again(tmp_path):
    made = []

    def make(**parameters):
        made.append(parameters)
        return FAMILY.make(**parameters)

    few = dataclasses.replace(FAMILY, make=make, at_once=2)
    _ = few.spec
    made.clear()
    seeds = [(1, e) for e in range(5)]
    one, all_at_once = (play(f, FAMILY.training_tasks[0], 0.5, seeds) for f in (few, FAMILY))
    assert len(made) == 2
    assert np.array_equal(one.observations, all_at_once.observations)
    assert np.array_equal(one.rewards, all_at_once.rewards)


@pytest.mark.parametrize(
    ("expert", "message"),
    [
        (lambda env, rng: dict.fromkeys(range(3), 0), "expert chose no action for .*it chose for"),
        (lambda env, rng: dict.fromkeys(env.agents[:2], 0), "expert chose no action for"),
        (lambda env, rng: dict.fromkeys(env.agents, 7), "expert chose an illegal action for"),
        (lambda env, rng: dict.fromkeys(env.agents, 0.5), "illegal action for .*: 0.5, expected"),
        (lambda env, rng: dict.fromkeys(env.agents, None), "illegal action for .*: None"),
        (lambda env, rng: [0, 0, 0], "expected a dict of actions by agent"),
    ],
)
def test_what_an_expert_may_not_choose(tmp_path, expert, message):
    """It is refused at the first step, and leaves nothing that spoils the next call."""
    broken = dataclasses.replace(FAMILY, expert=expert)
    with pytest.raises(UserError, match=message):
        collect(broken, tmp_path / "x.h5", SMALL, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_units_survive_what_has_nothing_to_do_with_them(tmp_path, monkeypatch):
    """Processes that can't be started are no fault of the family's."""
    few = dataclasses.replace(FAMILY, training=dict(list(FAMILY.training.items())[:2]))
    config = CollectConfig(episodes=2, levels=[1.0], explorer=True, workers=1)
    real = module._play_unit

    def stops(*args, **kwargs):
        if args[1][1] == 1:
            raise KeyboardInterrupt
        real(*args, **kwargs)

    monkeypatch.setattr(module, "_play_unit", stops)
    with pytest.raises(KeyboardInterrupt):
        collect(few, tmp_path / "x.h5", config, seed=0)
    monkeypatch.setattr(module, "_play_unit", real)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module_processes, "ProcessPoolExecutor", full)
    monkeypatch.setattr(module_processes, "importable", lambda family: True)
    (parts,) = tmp_path.iterdir()
    (parts / "task0-behaviour0.npz").rename(parts / "kept.npz")
    with pytest.raises(UserError, match=r"/dev/shm.*No space left.*set collect.workers=1"):
        collect(few, tmp_path / "x.h5", dataclasses.replace(config, workers=2), seed=0)
    assert (parts / "kept.npz").exists()


def test_a_damaged_unit_is_played_again(tmp_path, monkeypatch, capsys):
    few = dataclasses.replace(FAMILY, training=dict(list(FAMILY.training.items())[:1]))
    collect(few, tmp_path / "whole.h5", SMALL, seed=0)
    real, played = module._play_unit, []

    def damaged(family, unit, parts, **options):
        real(family, unit, parts=parts, **options)
        played.append(unit)
        if len(played) == 1:
            path = parts / "task0-behaviour0.npz"
            path.write_bytes(path.read_bytes()[:1000])

    monkeypatch.setattr(module, "_play_unit", damaged)
    collect(few, tmp_path / "mended.h5", SMALL, seed=0)
    assert played == [(0, 0), (0, 1), (0, 0)]
    assert "is damaged, and its episodes are played again" in capsys.readouterr().out
    whole, mended = (EpisodeFile(tmp_path / name) for name in ("whole.h5", "mended.h5"))
    assert whole.fingerprint == mended.fingerprint


class OddError(Exception):
    """Can't be sent to another process, which makes it anew with one argument."""

    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")


def test_any_error_of_an_environment_is_told():
    def fails(family, number):
        raise OddError(number, "the game is gone")

    with pytest.raises(RuntimeError, match="OddError: 3: the game is gone"):
        module_processes._call(fails, "lbf_7x7", (), 3)


def test_nothing_is_a_label_of_an_agent_for_which_nothing_was_chosen():
    labels = legal_labels({"a": None, "b": 1}, ["a", "b", "c"], np.ones((3, 2), bool))
    assert labels.tolist() == [-1, 1, -1]


def test_a_worker_that_dies_is_told_of(tmp_path):
    with pytest.raises(UserError, match="__main__"), module_processes._pool(1) as pool:
        pool.submit(os._exit, 1).result()


def test_a_script_without_a_guard_is_told_of(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from maicc.config import CollectConfig\n"
        "from maicc.data.collect import collect\n"
        "from maicc.envs import get_family\n"
        "collect(get_family('lbf_7x7'), 'episodes.h5', CollectConfig(episodes=1, workers=2), 0)\n"
    )
    ended = subprocess.run(
        [sys.executable, script.name], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert ended.returncode == 1
    assert "another process is making it, and this one is only being started" in ended.stderr
    assert "a process that collects has ended: a script must call this under" in ended.stderr


def test_workers_end_with_their_parent(tmp_path):
    code = (
        "import os, sys, time\n"
        "from maicc.data.processes import _pool\n"
        "if __name__ == '__main__':\n"
        "    with _pool(1) as pool:\n"
        "        print(pool.submit(os.getpid).result(), flush=True)\n"
        "        pool.submit(time.sleep, 600)\n"
        "        time.sleep(600)\n"
    )
    (tmp_path / "parent.py").write_text(code)
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py")], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    worker = int(parent.stdout.readline())
    os.kill(worker, 0)
    parent.kill()
    parent.wait()
    for _ in range(100):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        if b"Z" in Path(f"/proc/{worker}/stat").read_bytes().rsplit(b")", 1)[1][:3]:
            return  # ended, and nobody has asked for its exit code
        time.sleep(0.1)
    raise AssertionError("the worker lives on")


def test_a_plan_of_numpys_numbers_is_the_same_plan():
    plain = CollectConfig(episodes=4, levels=[0.5])
    theirs = CollectConfig(episodes=np.int64(4), levels=[np.float64(0.5)])
    assert plan_of(FAMILY, plain, 3) == plan_of(FAMILY, theirs, np.int64(3))
