from __future__ import annotations

from maicc import bench as module
from maicc.config import CollectConfig, DecisionConfig, EmbeddingConfig


def test_every_part_is_timed(monkeypatch):
    small = {"width": 16, "layers": 1, "heads": 2}
    sizes = {"small": (EmbeddingConfig(**small), DecisionConfig(**small))}
    monkeypatch.setattr(module, "SIZES", sizes)
    monkeypatch.setattr(module, "_SECONDS", 0.01)
    monkeypatch.setattr(module, "_RUNS", 3)
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
