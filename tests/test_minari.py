"""Datasets of teams in Minari's format."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from maicc.cli import main
from maicc.config import CollectConfig
from maicc.data import minari as ours
from maicc.data.collect import collect
from maicc.data.dataset import EpisodeFile, write_episodes
from maicc.data.episodes import EpisodeBatch
from maicc.envs import get_family
from maicc.types import UserError
from tests.commands import refused

FAMILY = get_family("lbf_7x7")
NAME = "teams/foraging-v0"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A dataset with one smaller team, one unknown seed and an agent that dies."""
    folder = tmp_path_factory.mktemp("dataset")
    collect(FAMILY, folder / "all.h5", CollectConfig(episodes=2, levels=[0.2, 1.0], workers=1), 4)
    read = EpisodeFile(folder / "all.h5")
    episodes = read.read()
    episodes.agent_mask[0, 2] = False
    episodes.seed[1] = -1
    episodes.alive[2, 1:, 0] = False
    write_episodes(folder / "mine.h5", episodes, read.spec, read.tasks, read.behaviours)
    return folder / "mine.h5"


@pytest.fixture
def minari(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    return pytest.importorskip("minari", reason="the extra `minari` is not installed")


def test_without_minari_the_extra_is_named(dataset, monkeypatch, capsys):
    monkeypatch.setattr(ours, "find_spec", lambda name: None)
    for words in ([f"--to-minari={NAME}", f"--data={dataset}"], [f"--from-minari={NAME}"]):
        assert 'pip install "maicc[minari]"' in refused(capsys, "collect", "lbf_7x7", *words)


def test_there_and_back_are_the_same_episodes(dataset, minari, tmp_path):
    main(["collect", "lbf_7x7", f"--to-minari={NAME}", f"--data={dataset}"])
    out = tmp_path / "back.h5"
    main(["collect", "lbf_7x7", f"--from-minari={NAME}", f"--out={out}"])
    there, back = EpisodeFile(dataset), EpisodeFile(out)
    for name in EpisodeBatch.__dataclass_fields__:
        assert np.array_equal(getattr(there.read(), name), getattr(back.read(), name)), name
    assert there.fingerprint == back.fingerprint
    assert there.rosters == back.rosters


def test_minari_reads_a_team(dataset, minari):
    ours.export_minari(dataset, FAMILY, NAME)
    assert list(minari.list_local_datasets()) == [NAME]
    stored, episodes = minari.load_dataset(NAME), EpisodeFile(dataset).read()
    assert len(stored) == len(episodes)
    assert stored.total_steps == episodes.length.sum()
    first, length = stored[0], episodes.length[0]
    assert stored.action_space.contains({a: int(act[0]) for a, act in first.actions.items()})
    assert stored.observation_space.contains({a: o[0] for a, o in first.observations.items()})
    assert list(first.observations) == ["agent_0", "agent_1", "agent_2"]
    assert np.array_equal(first.actions["agent_1"], episodes.actions[0, :length, 1])
    assert first.observations["agent_1"].shape == (length + 1, FAMILY.spec.observation_size)
    assert np.array_equal(first.rewards, episodes.rewards[0, :length])
    ends = [stored[e].terminations.tolist() for e in range(len(stored))]
    assert [e[-1] for e in ends] == episodes.terminated.tolist()
    assert not any(any(e[:-1]) for e in ends)
    described = list(stored.storage.get_episode_metadata([0, 1]))
    assert described[0]["seed"] == episodes.seed[0]
    assert described[0]["options"]["task"] == FAMILY.training_tasks[0].name
    assert described[0]["options"]["agent_mask"].tolist() == [True, True, False]
    assert "seed" not in described[1]


def test_a_broken_export_leaves_nothing(dataset, minari, tmp_path, monkeypatch):
    real = ours._buffers

    def half(*arguments):
        yield next(real(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(ours, "_buffers", half)
    with pytest.raises(KeyboardInterrupt):
        ours.export_minari(dataset, FAMILY, NAME)
    assert not list((tmp_path / "datasets").rglob("*foraging*"))
    monkeypatch.setattr(ours, "_buffers", real)
    ours.export_minari(dataset, FAMILY, NAME)
    with pytest.raises(UserError, match="is there already"):
        ours.export_minari(dataset, FAMILY, NAME)


def test_refused(dataset, minari, tmp_path, capsys):
    for name in ("teams/foraging", "../foraging-v0", "a b-v0"):
        with pytest.raises(UserError, match="no name of a Minari dataset"):
            ours.export_minari(dataset, FAMILY, name)
    out = tmp_path / "out.h5"
    with pytest.raises(UserError, match="no such dataset; MINARI_DATASETS_PATH"):
        ours.import_minari(NAME, FAMILY, out)
    other = get_family("lbf_9x9")
    with pytest.raises(UserError, match="made for another family or size"):
        ours.export_minari(dataset, other, NAME)
    ours.export_minari(dataset, FAMILY, NAME)
    with pytest.raises(UserError, match="foraging-v0: made for another family or size"):
        ours.import_minari(NAME, other, out)
    tasks = dict(list(FAMILY.training.items())[:-1])
    gone = list(FAMILY.training)[-1]
    with pytest.raises(
        UserError, match=f"foraging-v0: made for other training tasks than lbf_7x7 has now .{gone}"
    ):
        ours.import_minari(NAME, replace(FAMILY, training=tasks), out)
    metadata = tmp_path / "datasets" / NAME / "data" / "metadata.json"
    stored = json.loads(metadata.read_text())
    for changes in (
        {"maicc": {}},
        {"minari_version": "9.0"},
        {"total_episodes": stored["total_episodes"] + 1},
    ):
        metadata.write_text(json.dumps({**stored, **changes}))
        with pytest.raises(UserError, match=r"no team as .*--to-minari.* lays it out"):
            ours.import_minari(NAME, FAMILY, out)
    assert not out.exists()
    said = refused(capsys, "collect", "lbf_7x7", f"--to-minari={NAME}")
    assert "--to-minari NAME and --data FILE.h5 go together" in said
