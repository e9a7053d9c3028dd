from __future__ import annotations

import dataclasses
import json
import shutil

import h5py
import pytest

from maicc.baselines import METHODS
from maicc.config import CollectConfig
from maicc.data.collect import collect
from maicc.data.dataset import EpisodeFile
from maicc.envs import get_family, register
from maicc.experiments.compare import compare, further_tables
from maicc.experiments.units import with_overrides
from maicc.types import UserError
from tests.conftest import tiny_config


def test_what_each_method_is_given_is_said(tiny_run, tmp_path):
    config, dataset = tiny_config(), EpisodeFile(tiny_run / "episodes.h5")
    told = METHODS["maicc"].told(config, dataset).split("; ")
    assert "the hidden part of training tasks" in told
    config.decision.model.hidden_weight = 0.0
    assert told != METHODS["maicc"].told(config, dataset).split("; ")
    told = {
        name: method.told(with_overrides(config, {"method": name}), dataset)
        for name, method in METHODS.items()
    }
    assert told["maicc"].startswith("returns; tasks; the dataset as a memory at test time")
    assert told["maicc"].endswith("all agents' views, for the teacher")
    assert "the best behaviour policy's actions" in told["dpt"]
    config.decision.model.k = 0
    assert METHODS["maicc"].told(config, dataset) == "returns"
    config.decision.model.record, config.decision.model.labels = 2, "expert"
    labels = "tasks; the best behaviour policy's actions"
    memories = f"{labels}; which episodes the expert played"  # whose failures they leave out
    assert METHODS["maicc"].told(config, dataset) == memories
    config.decision.model.labels = "auto"
    assert METHODS["maicc"].told(config, dataset) == memories
    lived = with_overrides(config, {"method": "dpt", "decision.lived": True})
    assert METHODS["dpt"].told(lived, dataset) == memories
    config.decision.informed_failures = True
    assert METHODS["maicc"].told(config, dataset) == labels
    shutil.copy(dataset.path, tmp_path)
    with h5py.File(tmp_path / "episodes.h5", "a") as file:
        del file["expert_actions"]  # as those of a user's own episodes
    assert METHODS["maicc"].told(config, EpisodeFile(tmp_path / "episodes.h5")) == "returns; tasks"


def test_a_comparison_starts_from_maicc(tmp_path):
    config = with_overrides(tiny_config(), {"method": "dpt"})
    with pytest.raises(UserError, match="a comparison starts from MAICC's options"):
        compare(config, {"maicc": {}}, seeds=1, tasks=1, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_ad_has_a_history_of_annealed_noise_where_there_is_an_expert(tiny_run, tmp_path):
    config, ad = tiny_config(), METHODS["ad"]
    mine = with_overrides(config, {"method": "ad"})
    assert (config.collect.anneal, mine.collect.anneal) == (0, 25)
    levels = CollectConfig(episodes=1, levels=[1.0], anneal=3, workers=1)
    collect(get_family("lbf_7x7"), tmp_path / "annealed.h5", levels, 0)
    annealed = EpisodeFile(tmp_path / "annealed.h5")
    assert ad.told(mine, annealed) == "tasks; a history of finely annealed noise"
    assert ad.trained_on(mine) == "6 x 16 trajectories"  # 8 are asked for, a row has 16
    config.collect.anneal = 7
    assert with_overrides(config, {"method": "ad"}).collect.anneal == 7
    at_levels = EpisodeFile(tiny_run / "episodes.h5")
    assert ad.told(mine, at_levels) == "tasks; the level of each behaviour policy"
    mine.decision.model.hidden_weight = 1.0
    told = "tasks; a history of finely annealed noise; the hidden part of training tasks"
    assert ad.told(mine, annealed) == told
    register(dataclasses.replace(get_family("lbf_7x7"), name="no_expert", expert=None))
    config = tiny_config(family="no_expert")
    assert with_overrides(config, {"method": "ad"}).collect.anneal == 0


def test_maicc_keeps_its_second_lesson_beside_any_rival():
    for rival in METHODS:
        config = with_overrides(tiny_config(), {"method": rival})
        assert with_overrides(config, {"method": "maicc"}).decision.model.hidden_weight == 1.0
    asked = with_overrides(tiny_config(), {"method": "dpt", "decision.model.hidden_weight": 1.0})
    assert with_overrides(tiny_config(), {"method": "dpt"}).decision.model.hidden_weight == 0.0
    assert (
        METHODS["dpt"]
        .told(asked, EpisodeFile("none.h5"))
        .endswith("the hidden part of training tasks")
    )


def test_what_maicc_supervises_is_not_what_at_does():
    config = with_overrides(tiny_config(), {"decision.model.supervise": "last"})
    assert with_overrides(config, {"method": "at"}).decision.model.supervise == "all"


def test_rivals_that_sample_share_random_numbers_where_maicc_does():
    config = tiny_config()
    config.adapt.memory.draws, config.adapt.memory.redraw = "shared", "episode"
    for name in ("at", "ad", "radt", "dpt"):
        adapt = with_overrides(config, {"method": name}).adapt
        assert (adapt.draws, adapt.redraw) == ("shared", "episode")
    own = with_overrides(config, {"method": "dpt", "adapt.draws": "own", "adapt.redraw": "step"})
    assert own.adapt == with_overrides(tiny_config(), {"method": "dpt"}).adapt
    assert not hasattr(with_overrides(config, {"method": "madt"}).adapt, "draws")


@pytest.mark.slow
def test_compare(tmp_path):
    methods = {"maicc": {}, "at": {"method": "at"}, "radt": {"method": "radt"}}
    assert with_overrides(tiny_config(), methods["radt"]).retriever.steps == 6
    table = compare(tiny_config(), methods, seeds=1, tasks=2, out=tmp_path)
    assert [row["method"] for row in table["methods"]] == list(methods)
    for row in table["methods"]:
        assert row["better_than"] in set(methods) - {row["method"]}
        assert 0 <= row["probability"] <= 1
        assert row["seconds_per_episode"] > 0
        assert row["parameters"] > 1000
        assert (
            set(row["retrieval"])
            == {
                "maicc": {"offline", "nearest_task", "return_gap"},
                "at": set(),
                "radt": {"offline", "return_gap"},
            }[row["method"]]
        )
    assert json.loads((tmp_path / "compare.json").read_text()) == table
    text = (tmp_path / "compare.md").read_text()
    assert "6 x 8 trajectories" in text
    assert text.rstrip().splitlines()[-1].startswith("| radt |")  # AT looks nothing up
    assert [further.title for further in further_tables(table["methods"][1:2])] == ["Methods"]
    page = (tmp_path / "report.html").read_text()
    assert "<svg" in page
    assert "6 x 8 trajectories" in page
    assert "asks the dataset" in page
