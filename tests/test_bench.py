from __future__ import annotations

import dataclasses

import pytest

from maicc.config import CollectConfig, DecisionConfig, EmbeddingConfig
from maicc.envs import get_family
from maicc.evaluation import speed as module
from maicc.evaluation import speed_parts as bench_parts

pytestmark = pytest.mark.slow


def test_every_part_is_timed(monkeypatch):
    small = {"width": 16, "layers": 1, "heads": 2}
    sizes = {"small": (EmbeddingConfig(**small), DecisionConfig(**small, k=3, record=0))}
    monkeypatch.setattr(module, "SIZES", sizes)
    monkeypatch.setattr(module, "_SECONDS", 0.01)
    monkeypatch.setattr(module, "_RUNS", 3)
    monkeypatch.setattr(module, "_PEAK_SIZES", {"cpu": 256})
    monkeypatch.setattr(module, "CollectConfig", lambda: CollectConfig(12, [1.0], workers=1))
    result = module.bench("lbf_7x7", "cpu", largest=27_000)
    parts = [row["part"] for row in result["rows"]]
    assert parts == ["embedding step", "keys", "decision step"] * 2 + ["adaptation"] + [
        "retrieval",
        "retrieval",
    ]
    assert all(row["seconds"] > 0 for row in result["rows"][:7])
    exact, rough = result["rows"][-2:]
    assert exact["recall_at_50"] == 1.0
    assert 0.5 < rough["recall_at_50"] <= 1.0
    lines = module.markdown(result).splitlines()
    assert len(lines) == len(result["rows"]) + 4


def test_environments_and_teachers(monkeypatch):
    monkeypatch.setattr(bench_parts, "_SECONDS", 0.05)
    monkeypatch.setattr(module, "_SECONDS", 0.01)
    rows = bench_parts.bench_environments(["lbf_7x7"])
    assert [row["form"] for row in rows] == ["PettingZoo"] + [
        f"{n} in lock step" for n in (1, 16, 64)
    ]
    assert all(row["steps_per_second"] > 100 for row in rows)
    rows = bench_parts.bench_teachers("lbf_7x7", episodes=2)
    assert [(row["teacher"], row["steps"]) for row in rows] == [
        ("joint, flat", 15), ("joint, flat", 3), ("factored, flat", 15), ("factored, flat", 3),
    ]  # fmt: skip
    assert rows[0]["gflop"] > rows[1]["gflop"] > 0
    assert len(bench_parts.markdown(rows).splitlines()) == 6


def test_teachers_of_a_family_whose_bounds_the_data_tell(monkeypatch):
    monkeypatch.setattr(module, "_SECONDS", 0.01)
    boundless = dataclasses.replace(get_family("lbf_7x7"), return_bounds=None)
    monkeypatch.setattr(bench_parts, "get_family", lambda name: boundless)
    assert len(bench_parts.bench_teachers("boundless", episodes=1)) == 4
