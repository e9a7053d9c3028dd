"""Folders of version 0.1 (4401b7f) are read and go on; data/version_0_1 holds two, as it made them.

maicc run lbf_7x7 --method maicc|radt --seed 3 --collect.episodes 2 --collect.levels=[0.0,1.0]
with models of width 8, one layer and one head, 3 steps of 4 each, one team, two episodes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from maicc import load_team
from maicc.cli import main
from maicc.data.dataset import EpisodeFile
from maicc.evaluation.run_folder import read_config
from maicc.experiments.run import run

FOLDERS = Path(__file__).parent / "data" / "version_0_1"


@pytest.fixture(params=["maicc", "radt"])
def folder(request, tmp_path) -> Path:
    """A copy of a folder, with its dataset."""
    folder = tmp_path / request.param
    shutil.copytree(FOLDERS / request.param, folder)
    shutil.copy(FOLDERS / "episodes.h5", folder)
    return folder


def test_its_options_are_found_where_they_are_now(folder):
    config = read_config(folder)
    assert (config.decision.model.width, config.adapt.episodes) == (8, 2)
    if config.method == "radt":
        assert (config.retriever.steps, config.decision.model.window) == (3, 8)
        assert config.adapt.explore == "sample"
    else:
        assert (config.embedding.steps, config.decision.model.k) == (3, 3)
        assert config.adapt.memory.schedule == "evidence"


def test_the_dataset_of_ad_is_still_one_of_levels(folder):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "method": "ad"}))
    collect = read_config(folder).collect
    assert (collect.anneal, collect.levels) == (0, [0.0, 1.0])


@pytest.mark.slow
def test_it_goes_on_to_the_same_numbers(folder):
    result = folder / "adapt" / "result.json"
    before = json.loads(result.read_text())
    result.unlink()
    trained = {path: path.read_bytes() for path in folder.glob("*.ckpt")}
    run(read_config(folder), folder)
    after = json.loads(result.read_text())
    assert after["runs"] == before["runs"]
    assert after["retrieval"] == before["retrieval"]
    assert sorted(path.read_bytes() for path in folder.glob("*.ckpt")) == sorted(trained.values())
    assert load_team(folder).episode == 0


@pytest.mark.slow
def test_what_is_missing_is_trained(folder):
    (folder / "decision.ckpt").unlink()
    (folder / "adapt" / "result.json").unlink()
    run(read_config(folder), folder)
    assert (folder / "decision.ckpt").exists()
    assert (folder / "report.html").exists()


def test_another_configuration_is_still_refused(folder, capsys):
    method = read_config(folder).method
    with pytest.raises(SystemExit):
        main(["run", "lbf_7x7", f"--method={method}", f"--out={folder}"])
    assert "was made with another configuration" in capsys.readouterr().err


def test_a_dataset_without_the_field_alive_is_read():
    episodes = EpisodeFile(FOLDERS / "episodes.h5").read()
    assert (episodes.alive == episodes.played[..., None]).all()


def test_its_team_makes_a_bundle(folder, tmp_path):
    main(["bundle", str(folder), str(tmp_path / "team.maicc")])
    results = []
    for place in (folder, tmp_path / "team.maicc"):
        main(["adapt", str(place), "--out", str(tmp_path / f"{len(results)}.json")])
        results.append(json.loads((tmp_path / f"{len(results)}.json").read_text())["runs"])
    assert results[0] == results[1]
