"""A small team must really adapt: trained here from nothing, tested on tasks it has never seen."""

from __future__ import annotations

import json

import numpy as np

from maicc.config import AdaptConfig, CollectConfig, DecisionFit, EmbeddingFit, RunConfig
from maicc.run import run


def test_a_small_team_adapts_to_unseen_tasks(tmp_path):
    """About a quarter of the demo's training. Measured: see the assertion's margins below."""
    config = RunConfig(
        family="lbf_7x7",
        device="cpu",
        collect=CollectConfig(episodes=100),
        embedding=EmbeddingFit(steps=300),
        decision=DecisionFit(steps=900),
        adapt=AdaptConfig(episodes=40, runs=16, training_runs=0),
    )
    run(config, tmp_path)
    result = json.loads((tmp_path / "adapt" / "result.json").read_text())
    returns = np.array([r["returns"] for r in result["runs"]])
    assert all(r["held_out"] for r in result["runs"])
    print(returns.mean(0).round(2))
    assert returns[:, -10:].mean() > 1.4
    assert returns[:, -10:].mean() - returns[:, :3].mean() > 0.3
