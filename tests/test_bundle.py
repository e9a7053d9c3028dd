"""A bundle is its run in one file, acts like it, and is refused where it is anything else."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
import warnings
from unittest import mock
from zipfile import ZipFile

import numpy as np
import pytest
import yaml

from maicc import load_team
from maicc.baselines import METHODS
from maicc.cli import main
from maicc.config import DecisionConfig, DecisionFit
from maicc.envs import batch_env, get_family, register, registry
from maicc.evaluation import archive
from maicc.evaluation.adapt import play_episode
from maicc.evaluation.run_folder import opened, read_config
from maicc.evaluation.trained import load_folder
from maicc.experiments.run import run
from maicc.types import UserError
from tests.commands import refused
from tests.conftest import tiny_config

FAMILY = get_family("lbf_7x7")


@pytest.fixture(scope="module")
def team(tiny_run, tmp_path_factory):
    """Bundle of the tiny run, which looks up in the dataset."""
    path = tmp_path_factory.mktemp("bundle") / "team.maicc"
    main(["bundle", str(tiny_run), str(path)])
    return path


@pytest.fixture(scope="module", params=["record", "goal of the dataset", "radt", "dpt"])
def other(request, tmp_path_factory):
    """Folder of a run that looks nothing up in the dataset, and its bundle."""
    folder = tmp_path_factory.mktemp("other")
    config = tiny_config(request.param if request.param in METHODS else "maicc")
    if config.method == "maicc":
        small = DecisionConfig(width=16, layers=1, heads=2, k=0, record=2)
        config.decision = DecisionFit(model=small, batch_size=8, steps=4)
        config.adapt.memory.goal = "auto" if request.param == "record" else "dataset"
    run(config, folder / "run")
    main(["bundle", str(folder / "run"), str(folder / "team.maicc")])
    return folder / "run", folder / "team.maicc"


def adapted(run, out, *options):
    main(["adapt", str(run), "--out", str(out), "--episodes=4", "--runs=2", *options])
    result = json.loads(out.read_text())
    return {name: value for name, value in result.items() if name != "seconds"}


def check_equal(folder, bundle, tmp_path, *options):
    expected = adapted(folder, tmp_path / "folder.json", *options)
    assert adapted(bundle, tmp_path / "bundle.json", *options) == expected
    tasks = FAMILY.draw_tasks(1, 3)
    played = []
    for place in (folder, bundle):
        one, env = load_team(place, seed=5, episodes=3), batch_env(FAMILY, tasks)
        played.append([float(play_episode(one, env, [e])[0]) for e in range(3)])
        env.close()
    assert played[0] == played[1]


def test_it_acts_as_its_run(team, tiny_run, tmp_path):
    check_equal(tiny_run, team, tmp_path, "--memory.schedule=decay")
    assert load_folder(team).content == load_folder(tiny_run).content


@pytest.mark.slow
def test_so_do_bundles_of_teams_that_look_nothing_up(other, tmp_path):
    folder, bundle = other
    check_equal(folder, bundle, tmp_path)
    with ZipFile(bundle) as file:
        assert file.namelist()[-2:] == ["decision.safetensors", "episodes.h5"]
    with opened(bundle) as (_, files):
        assert files.episodes.stat().st_size < (folder / "episodes.h5").stat().st_size
        kept = files.episodes
    assert not kept.exists()


def test_the_same_run_gives_the_same_bytes(team, tiny_run, tmp_path):
    main(["bundle", str(tiny_run), str(tmp_path / "again.maicc")])
    assert (tmp_path / "again.maicc").read_bytes() == team.read_bytes()


def test_the_card_tells_how_to_make_the_run_again(team, tiny_run, tmp_path):
    with ZipFile(team) as file:
        card = file.read("card.md").decode()
        assert json.loads(file.read("spec.json"))["family"] == "lbf_7x7"
    summary = json.loads((tiny_run / "adapt" / "result.json").read_text())["summary"]
    assert f"| {summary['first3']:.2f} |" in card
    assert "| method | maicc |" in card
    lines = [line[4:] for line in card.split("in FILE.yaml:")[1].splitlines() if line]
    (tmp_path / "again.yaml").write_text("\n".join(lines))
    with mock.patch("maicc.experiments.run.run") as ran:
        main(["run", str(tmp_path / "again.yaml"), "--out", str(tmp_path / "again")])
    config = ran.call_args.args[0]
    assert config.identity() == read_config(team).identity() == read_config(tiny_run).identity()
    assert (config.adapt.runs, config.adapt.training_runs) == (2, 2)
    assert yaml.safe_load("\n".join(lines))["decision"]["model"]["k"] == 3


def test_what_makes_no_bundle(tiny_run, tmp_path, capsys):
    out = tmp_path / "team.maicc"
    assert "ends with .maicc" in refused(capsys, "bundle", str(tiny_run), str(tmp_path / "x.zip"))
    assert "no config.json, so this is" in refused(capsys, "bundle", str(tmp_path), str(out))
    shutil.copytree(tiny_run, tmp_path / "run")
    (tmp_path / "run" / "adapt" / "result.json").unlink()
    said = refused(capsys, "bundle", str(tmp_path / "run"), str(out))
    assert "no adapt/result.json, so this is no folder of a finished" in said
    (tmp_path / "run" / "decision.ckpt").write_bytes(b"damaged")
    shutil.copy(tiny_run / "adapt" / "result.json", tmp_path / "run" / "adapt")
    assert "not a readable checkpoint" in refused(capsys, "bundle", str(tmp_path / "run"), str(out))
    assert not out.exists()
    out.write_text("mine")
    assert "is there already" in refused(capsys, "bundle", str(tiny_run), str(out))
    assert out.read_text() == "mine"


def rewritten(team, path, change):
    """The bundle with its files changed, and sums that fit."""
    with ZipFile(team) as file:
        members = {name: file.read(name) for name in file.namelist()}
    del members[archive.MANIFEST]
    change(members)
    folder = path.parent / "members"
    folder.mkdir(exist_ok=True)
    for name, content in members.items():
        (folder / name).write_bytes(content)
    archive.write_archive(path, {name: folder / name for name in members})
    return path


def test_foreign_files_are_refused_in_a_line(team, tiny_run, tmp_path, capsys):
    path, out = tmp_path / "x.maicc", str(tmp_path / "out.json")

    def said():
        with pytest.raises(UserError) as error:
            load_team(path)
        text = refused(capsys, "adapt", str(path), "--out", out)
        assert str(error.value) in text
        assert len(text.strip().splitlines()) <= 3
        assert str(path) in text
        return text

    shutil.copy(tiny_run / "decision.ckpt", path)  # a zip as well
    assert "no bundle of maicc, since it holds no bundle.json" in said()
    path.write_bytes(pickle.dumps({"a": 1}))
    assert "damaged, or no bundle of maicc (File is not a zip file)" in said()
    path.write_bytes(team.read_bytes()[:-40])
    assert "damaged, or no bundle" in said()
    content = bytearray(team.read_bytes())
    content[content.index(b"vectors") + 3000] ^= 1
    path.write_bytes(content)
    assert "damaged, or no bundle" in said()
    with ZipFile(team) as file, ZipFile(path, "w") as copy:
        for name in file.namelist():
            text = file.read(name)
            copy.writestr(name, text.replace(b'"schema": 1', b'"schema": 7'))
    assert "a bundle of schema 7, this version of maicc reads schema 1" in said()
    with warnings.catch_warnings(), ZipFile(path, "w") as copy, ZipFile(team) as file:
        warnings.simplefilter("ignore")
        for name in [*file.namelist(), "card.md"]:
            copy.writestr(name, file.read(name))
    assert "not those that it lists" in said()
    path.unlink()
    assert "No such file" in refused(capsys, "adapt", str(path), "--out", out)
    (tmp_path / "team.zip").write_bytes(team.read_bytes())
    said = refused(capsys, "adapt", str(tmp_path / "team.zip"), "--out", out)
    assert "expected the folder of a run, or a bundle named NAME.maicc" in said
    assert not (tmp_path / "out.json").exists()
    for command in ("credit", "context"):
        assert "is a file, expected the folder of a run" in refused(capsys, command, str(team))


def test_files_that_do_not_belong_together_are_refused(team, tmp_path):
    def put(name, text):
        return lambda members: members.update({name: text})

    path = tmp_path / "x.maicc"
    spec = dataclasses.asdict(get_family("lbf_9x9").spec)
    for change, message in (
        (put("spec.json", json.dumps(spec).encode()), "x.maicc: episodes.h5: made for another"),
        (put("spec.json", b"[]"), "its spec.json can't be read"),
        (lambda m: m.pop("decision.safetensors"), "x.maicc: decision.safetensors: no such check"),
        (lambda m: m.update({"decision.safetensors": m["embedding.safetensors"]}), "holds embedd"),
        (lambda m: m.update({"keys.safetensors": m["embedding.safetensors"]}), "not these keys"),
        (lambda m: m.pop("config.json"), "damaged, or no bundle"),
        (put("config.json", b'{"family": "lbf_7x7", "seed": -1}'), "seed=-1 must be at least 0"),
    ):
        rewritten(team, path, change)
        with pytest.raises(UserError, match=message):
            load_team(path)


def test_keys_are_made_anew_where_they_are_missing(team, tmp_path):
    path = rewritten(team, tmp_path / "x.maicc", lambda members: members.pop("keys.safetensors"))
    made, given = load_folder(path), load_folder(team)
    assert np.allclose(made.offline.individual_return, given.offline.individual_return, atol=1e-6)


def test_a_family_of_other_tasks_is_refused(team, monkeypatch):
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    register(dataclasses.replace(FAMILY, held_out=dict([*FAMILY.held_out.items()][1:])))
    with pytest.raises(UserError, match="trained on a lbf_7x7 with other tasks or rules than"):
        load_team(team)
    register(dataclasses.replace(FAMILY, max_steps=9))
    with pytest.raises(
        UserError, match=r"team\.maicc: episodes\.h5: made for another family or size"
    ):
        load_team(team)


def test_a_run_notes_down_whether_its_family_states_bounds(team, tiny_run, tmp_path):
    """Where the family cannot be imported a team goes by the same goal."""
    assert load_folder(team).states_bounds is True
    shutil.copytree(tiny_run, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    stored = json.loads(path.read_text())
    for noted, told in ((False, False), (None, True)):  # None: the family is asked, and states them
        path.write_text(json.dumps({**stored, "states_bounds": noted}))
        assert load_folder(tmp_path / "run").knows_maximum is told


def test_no_file_leads_out_of_the_folder(tmp_path):
    archive.write_archive(tmp_path / "x.maicc", {"../outside.json": "{}"})
    with pytest.raises(UserError, match=r"a file named '\.\./outside\.json'"):
        archive.unpack(tmp_path / "x.maicc", tmp_path / "x")
    assert not (tmp_path / "outside.json").exists()
