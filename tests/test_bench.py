from __future__ import annotations

import dataclasses
import json
import time

import pytest

from maicc.cli.looking import bench_command
from maicc.config import CollectConfig, DecisionConfig, EmbeddingConfig
from maicc.envs import get_family
from maicc.evaluation import speed as module
from maicc.evaluation import speed_parts as bench_parts
from maicc.evaluation import speed_search as bench_search
from maicc.types import UserError

pytestmark = pytest.mark.slow


def test_every_part_is_timed(monkeypatch):
    small = {"width": 16, "layers": 1, "heads": 2}
    sizes = {
        "record": (EmbeddingConfig(**small), DecisionConfig(**small)),
        "retrieval": (EmbeddingConfig(**small), DecisionConfig(**small, k=3, record=0)),
    }
    monkeypatch.setattr(module, "SIZES", sizes)
    monkeypatch.setattr(module, "_SECONDS", 0.01)
    monkeypatch.setattr(module, "_RUNS", 3)
    monkeypatch.setattr(module, "_PEAK_SIZES", {"cpu": 256})
    monkeypatch.setattr(module, "CollectConfig", lambda: CollectConfig(12, [1.0], workers=1))
    result = module.bench("lbf_7x7", "cpu")
    parts = [["decision step"], ["embedding step", "keys", "decision step"]]
    expected = [part for of_size in parts for part in [*of_size * 2, "adaptation"]]
    assert [row["part"] for row in result["rows"]] == expected
    assert all(row["seconds"] > 0 and row["times_the_authors"] for row in result["rows"])
    record, retrieval = result["rows"][2], result["rows"][-1]
    assert record["search"] == "0%" != retrieval["search"]
    for row in (record, retrieval):
        shares = [int(row[part][:-1]) for part in ("environment", "networks", "search", "rest")]
        assert min(shares) >= 0
        assert 98 <= sum(shares) <= 102
    lines = module.markdown(result).splitlines()
    assert len(lines) == len(result["rows"]) + 4


def test_the_shipped_models_of_a_family_are_timed(monkeypatch, tmp_path, capsys):
    file, out = tmp_path / "mine.yaml", tmp_path / "out"
    small = "{width: 16, layers: 1, heads: 2%s}"
    file.write_text(
        "family: lbf_7x7\ncollect: {episodes: 12, levels: [1.0], workers: 1}\n"
        f"embedding: {{batch_size: 3, model: {small % ''}}}\n"
        f"decision: {{batch_size: 5, model: {small % ', k: 2, record: 0'}}}\n"
    )
    monkeypatch.setattr(module, "_SECONDS", 0.01)
    monkeypatch.setattr(module, "_RUNS", 3)
    monkeypatch.setattr(module, "_PEAK_SIZES", {"cpu": 256})
    bench_command([str(file), "--part", "shipped", "--out", str(out)])
    rows = {row["part"]: row for row in json.loads((out / "shipped.json").read_text())["rows"]}
    assert {row["size"] for row in rows.values()} == {"as shipped"}
    embedding, decision = rows["embedding step"], rows["decision step"]
    assert embedding["episodes_per_second"] * embedding["seconds"] == pytest.approx(3, rel=0.02)
    assert decision["queries_per_second"] * decision["seconds"] == pytest.approx(5, rel=0.02)
    assert rows["adaptation"]["search"] != "0%"
    file.write_text("family: lbf_7x7\nmethod: dpt\n")
    with pytest.raises(UserError, match="method=dpt"):
        bench_command([str(file), "--part", "shipped"])


def test_a_call_inside_another_one_counts_once_and_functions_are_given_back():
    class Work:
        def outer(self):
            time.sleep(0.01)
            self.inner()

        def inner(self):
            time.sleep(0.02)

    work = Work()
    with module.Shares({"outside": [(work, "outer")], "inside": [(Work, "inner")]}) as shares:
        work.outer()
        assert shares.seconds["inside"] == 0.0
        work.inner()
    assert shares.seconds["outside"] >= 0.03
    assert shares.seconds["inside"] >= 0.02
    assert "outer" not in vars(work)


def test_searches_are_timed_and_their_recall_is_told(monkeypatch):
    monkeypatch.setattr(module, "_SECONDS", 0.01)
    monkeypatch.setattr(module, "_PEAK_SIZES", {"cpu": 256})
    monkeypatch.setattr(bench_search, "KEYS", (12_000, 10**9))
    monkeypatch.setattr(bench_search, "CollectConfig", lambda: CollectConfig(12, [1.0], workers=1))
    result = bench_search.bench_search("lbf_7x7", "cpu", largest=12_000)
    assert [row["index"].split(",")[0][:3] for row in result["rows"]] == [
        "Fla", "Fla", "SQf", "IVF", "IVF", "HNS",
    ]  # fmt: skip
    exact, product, half_exact, rough, half, graph = result["rows"]
    assert exact["recall_at_50"] == 1.0
    assert product["recall_at_50"] > 0.999  # keys that are equally near may change places
    assert half_exact["recall_at_50"] > 0.95
    assert half_exact["index_mib"] < 0.55 * exact["index_mib"]
    assert 0.5 < rough["recall_at_50"] <= 1.0
    assert 0.5 < graph["recall_at_50"] <= 1.0
    assert half["index_mib"] < 0.7 * rough["index_mib"]
    assert len(bench_search.markdown(result).splitlines()) == 10


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
