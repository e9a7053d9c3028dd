from __future__ import annotations

import json

from maicc.baselines import GIVEN, METHODS
from maicc.experiments.compare import compare
from tests.conftest import tiny_config


def test_what_each_method_is_given_is_said():
    assert set(GIVEN) == {"maicc", *METHODS}


def test_compare(tmp_path):
    methods = {"maicc": {}, "at": {"method": "at"}, "radt": {"method": "radt"}}
    table = compare(tiny_config(), methods, seeds=2, tasks=2, out=tmp_path)
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
