"""A dataset that the user gives in place of collecting."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest

from maicc.cli import main
from maicc.config import CollectConfig, DecisionConfig, DecisionFit
from maicc.data.arrays import convert_arrays
from maicc.data.collect import collect
from maicc.data.dataset import EpisodeFile, put_dataset
from maicc.envs import get_family, registry
from maicc.experiments import fits
from maicc.experiments.benchmark import benchmark
from maicc.experiments.compare import compare
from maicc.experiments.plan import plan
from maicc.experiments.proof import prove
from maicc.experiments.run import run
from maicc.experiments.units import with_overrides
from maicc.types import UserError
from tests.commands import refused
from tests.conftest import tiny_config

FAMILY = get_family("lbf_7x7")
OPTIONS = {"seeds": 2, "tasks": 2}


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    path = tmp_path_factory.mktemp("mine") / "mine.h5"
    collect(FAMILY, path, CollectConfig(episodes=2, levels=[0.5, 1.0], workers=1), seed=9)
    return path


@pytest.fixture
def no_collecting(monkeypatch):
    monkeypatch.setattr(fits, "collect", None)


def small():
    model = DecisionConfig(width=16, layers=1, heads=2, record=2)
    return tiny_config(decision=DecisionFit(model=model, batch_size=8, steps=4))


def inode(path):
    return os.stat(path).st_ino


def test_a_run_learns_from_it(mine, tmp_path, no_collecting, capsys):
    config = small()
    config.adapt.training_runs = 0
    run(config, tmp_path / "run", mine)
    assert inode(tmp_path / "run" / "episodes.h5") == inode(mine)
    stored = json.loads((tmp_path / "run" / "dataset.json").read_text())
    assert stored["fingerprint"] == EpisodeFile(mine).fingerprint
    capsys.readouterr()
    for data in (mine, None):  # it lies in the folder now
        run(config, tmp_path / "run", data)
        assert capsys.readouterr().out.count("is there") == 4
    unused = with_overrides(config, {"collect.episodes": 7, "collect.levels": [5.0]})
    run(unused, tmp_path / "run", mine)
    assert capsys.readouterr().out.count("is there") == 4


@pytest.mark.slow
def test_put_into_the_folder_by_hand_it_gives_the_same_models(mine, tmp_path, no_collecting):
    config = small()
    config.adapt.training_runs = 0
    (tmp_path / "by_hand").mkdir()
    shutil.copy(mine, tmp_path / "by_hand" / "episodes.h5")
    run(config, tmp_path / "by_hand")
    run(config, tmp_path / "given", mine)
    one, other = (
        json.loads((tmp_path / name / "adapt" / "result.json").read_text())["runs"]
        for name in ("by_hand", "given")
    )
    assert one == other


def test_another_dataset_in_the_folder_is_refused(mine, tiny_run, tmp_path):
    shutil.copy(tiny_run / "episodes.h5", tmp_path)
    with pytest.raises(UserError, match=r"episodes\.h5 is another dataset than .*mine\.h5"):
        run(tiny_config(), tmp_path, mine)


@pytest.mark.slow
def test_every_seed_and_unit_learns_from_it(mine, tmp_path, no_collecting, monkeypatch):
    variants = {"default": {}, "memoryless": {"decision.model.record": 0}}
    table = benchmark(small(), variants, **OPTIONS, out=tmp_path, data=mine, behaviours=True)
    (stored,) = (tmp_path / "models").glob("*.h5")
    assert inode(stored) == inode(mine)
    assert len(list((tmp_path / "models").rglob("decision.ckpt"))) == 4
    levels = [row["variant"] for row in table["rows"] if row["variant"].startswith("behaviour")]
    assert levels == ["behaviour: expert, aim 50%", "behaviour: expert, aim 100%"]
    moved = tmp_path / "elsewhere.h5"  # the same content is the same dataset
    shutil.copy(mine, moved)
    monkeypatch.setattr(fits, "fit_model", None)
    again = benchmark(small(), variants, **OPTIONS, out=tmp_path, data=moved, behaviours=True)
    assert again == table


def test_units_are_named_by_its_content(mine, tmp_path):
    def units(data):
        work = plan(small(), {"default": {}}, **OPTIONS, out=tmp_path, data=data)
        return {
            path for unit in work.units for path in (unit.result, *unit.files.checkpoints.values())
        }

    other = tmp_path / "other.h5"
    collect(FAMILY, other, CollectConfig(episodes=1, levels=[1.0], workers=1), seed=9)
    of_each = [units(mine), units(other), units(None)]
    assert len(set.union(*of_each)) == sum(map(len, of_each)) == 3 * 4


@pytest.mark.slow
def test_the_oracles_dataset_is_made_of_it(mine, tmp_path, no_collecting):
    proof = prove(small(), {"default": {}}, **OPTIONS, out=tmp_path, data=mine)
    assert {"default", "memoryless", "oracle"} <= {row["line"] for row in proof["rows"]}
    datasets = [EpisodeFile(path) for path in (tmp_path / "models").glob("*.h5")]
    hidden, told = sorted(datasets, key=lambda dataset: dataset.spec.observation_size)
    assert hidden.fingerprint == EpisodeFile(mine).fingerprint
    seen = told.read().observations
    assert np.array_equal(seen[..., :-2], hidden.read().observations)


@pytest.mark.slow
def test_ad_is_told_what_it_gets(mine, tmp_path, no_collecting, capsys):
    config = with_overrides(small(), {"adapt.episodes": 2})
    table = compare(
        config, {"maicc": {}, "ad": {"method": "ad"}}, seeds=1, tasks=1, out=tmp_path, data=mine
    )
    said = f"ad: learns from {mine} as it is, not from 25 annealed levels of its own"
    assert capsys.readouterr().out.count(said) == 1
    assert table["methods"][1]["given"] == "tasks; the level of each behaviour policy"
    assert len(list((tmp_path / "models").glob("*.h5"))) == 1


@pytest.mark.slow
def test_behaviours_of_imported_episodes_cannot_be_played(mine, tmp_path, no_collecting):
    episodes = EpisodeFile(mine).read()
    names = ("observations", "actions", "rewards", "length", "task", "action_mask")
    np.savez(tmp_path / "mine.npz", **{name: getattr(episodes, name) for name in names})
    convert_arrays(tmp_path / "mine.npz", FAMILY, tmp_path / "mine.h5")
    options = {"seeds": 1, "tasks": 1, "out": tmp_path, "data": tmp_path / "mine.h5"}
    table = benchmark(small(), {"default": {}}, behaviours=True, **options)
    assert [row["variant"] for row in table["rows"]][:2] == ["default", "scripted explorer"]


def test_what_does_not_fit_is_refused_before_work(mine, tmp_path, monkeypatch):
    out, config = tmp_path / "out", small()
    no_labels = tmp_path / "no_labels.h5"
    shutil.copy(mine, no_labels)
    with h5py.File(no_labels, "a") as file:
        del file["expert_actions"]
    tasks = dict(list(FAMILY.training.items())[:-1])
    few = replace(FAMILY, name="fewer", training=tasks)
    monkeypatch.setitem(registry._registered, "fewer", few)  # other tests do not know it
    fewer = tmp_path / "fewer.h5"
    collect(get_family("fewer"), fewer, CollectConfig(episodes=1, levels=[1.0], workers=1), 0)
    with h5py.File(fewer, "a") as file:  # a family of the same name and sizes
        file.attrs["spec"] = file.attrs["spec"].replace("fewer", "lbf_7x7")
        file.attrs["tasks"] = file.attrs["tasks"].replace("fewer", "lbf_7x7")
        del file.attrs["header"]
    expert = with_overrides(config, {"decision.model.labels": "expert"})
    for own, data, message in (
        (config, tmp_path / "none.h5", "no such dataset"),
        (replace(config, family="lbf_9x9"), mine, "made for another family or size"),
        (config, fewer, "made for other training tasks than lbf_7x7 has now"),
        (expert, no_labels, "this dataset has none"),
    ):
        with pytest.raises(UserError, match=message):
            run(own, out, data)
        with pytest.raises(UserError, match=message):
            benchmark(own, {"default": {}}, **OPTIONS, out=out, data=data)
    for overrides, message in (
        ({"collect.explorer": True}, r"variant x sets collect\.explorer"),
        ({"family": "lbf_9x9"}, "all play lbf_7x7: leave it out"),
    ):
        with pytest.raises(UserError, match=message):
            benchmark(config, {"x": overrides}, **OPTIONS, out=out, data=mine)
    assert not out.exists()


@pytest.mark.parametrize("command", ["run", "benchmark", "compare"])
def test_collecting_and_data_are_not_both_given(capsys, mine, command):
    said = refused(capsys, command, "lbf_7x7", f"--data={mine}", "--collect.episodes=3")
    assert "leave --collect.episodes=3 out, or --data" in said


@pytest.mark.slow
def test_the_commands_take_it(mine, tmp_path, no_collecting, capsys):
    options = [
        "lbf_7x7", f"--data={mine}", "--decision.steps=4", "--decision.model.width=16",
        "--decision.model.layers=1", "--decision.model.heads=2", "--device=cpu",
    ]  # fmt: skip
    bench = ["--seeds=1", "--tasks=1", "--episodes=2"]
    main(["benchmark", *options, *bench, f"--out={tmp_path / 'benchmark'}"])
    main(["compare", *options, *bench, "--methods=maicc", f"--out={tmp_path / 'compare'}"])
    adapt = ["--adapt.episodes=2", "--adapt.runs=1", "--adapt.training_runs=0"]
    main(["run", *options, *adapt, f"--out={tmp_path / 'run'}"])
    for name in ("benchmark/models", "compare/models", "run"):
        (stored,) = (tmp_path / name).glob("*.h5")
        assert inode(stored) == inode(mine)


def test_on_another_disk_it_is_copied(mine, tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "linked.h5").symlink_to(mine)
    put_dataset(tmp_path / "linked.h5", tmp_path / "copied.h5")
    assert (tmp_path / "copied.h5").read_bytes() == mine.read_bytes()
    assert inode(tmp_path / "copied.h5") != inode(mine)
    put_dataset(mine, tmp_path / "copied.h5")  # it is there


def test_a_link_is_not_made_to_a_symbolic_link(mine, tmp_path):
    (tmp_path / "symbolic.h5").symlink_to(mine)
    put_dataset(tmp_path / "symbolic.h5", tmp_path / "put.h5")
    assert not (tmp_path / "put.h5").is_symlink()
    assert inode(tmp_path / "put.h5") == inode(mine)
