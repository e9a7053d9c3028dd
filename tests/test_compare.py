from __future__ import annotations

import dataclasses
import json

import pytest

from maicc.baselines import METHODS
from maicc.envs import get_family, register
from maicc.experiments.compare import compare
from maicc.experiments.units import with_overrides
from tests.conftest import tiny_config


def test_what_each_method_is_given_is_said():
    config = tiny_config()
    told = METHODS["maicc"].told(config).split("; ")
    assert "the hidden part of training tasks" in told
    config.decision.model.hidden_weight = 0.0
    assert told != METHODS["maicc"].told(config).split("; ")
    told = {
        name: method.told(with_overrides(config, {"method": name}))
        for name, method in METHODS.items()
    }
    assert told["maicc"].startswith("returns; tasks; the dataset as a memory at test time")
    assert told["maicc"].endswith("all agents' views, for the teacher")
    assert "the best behaviour policy's actions" in told["dpt"]
    config.decision.model.k = 0
    assert METHODS["maicc"].told(config) == "returns"
    config.decision.model.record, config.decision.model.labels = 2, "expert"
    assert METHODS["maicc"].told(config) == "tasks; the best behaviour policy's actions"
    config.decision.model.labels = "auto"
    assert METHODS["maicc"].told(config) == "tasks; the best behaviour policy's actions"
    register(dataclasses.replace(get_family("lbf_7x7"), name="nobody_knows", expert=None))
    config.family = "nobody_knows"
    assert METHODS["maicc"].told(config) == "returns; tasks"


def test_ad_has_a_history_of_annealed_noise_where_there_is_an_expert():
    config, ad = tiny_config(), METHODS["ad"]
    mine = with_overrides(config, {"method": "ad"})
    assert (config.collect.anneal, mine.collect.anneal) == (0, 25)
    assert ad.told(mine) == "tasks; a history of finely annealed noise"
    assert ad.trained_on(mine) == "6 x 67 trajectories"  # 8 are asked for, a row has 67
    config.collect.anneal = 7
    assert with_overrides(config, {"method": "ad"}).collect.anneal == 7
    at_levels = with_overrides(config, {"method": "ad", "collect.anneal": 0})
    assert ad.told(at_levels) == "tasks; the level of each behaviour policy"
    register(dataclasses.replace(get_family("lbf_7x7"), name="no_expert", expert=None))
    config = tiny_config(family="no_expert")
    assert with_overrides(config, {"method": "ad"}).collect.anneal == 0


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
    assert "<svg" in (tmp_path / "report.html").read_text()
