"""A small team must really adapt: trained here from nothing, tested on tasks it has never seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from maicc.config import (
    CollectConfig,
    DecisionConfig,
    DecisionFit,
    MaiccAdapt,
    MaiccRun,
)
from maicc.experiments.run import run

TUTORIAL = Path(__file__).parent.parent / "docs" / "tutorial.md"


@pytest.mark.slow
def test_a_small_team_adapts_to_unseen_tasks(tmp_path, monkeypatch):
    """On the tutorial's levers, of which 8 is the maximum.

    Seen: 2.5 in the first three episodes, 3.8 in the last ten.
    """
    (tmp_path / "levers.py").write_text(
        TUTORIAL.read_text().split("```python\n")[1].split("```")[0]
    )
    monkeypatch.syspath_prepend(tmp_path)
    small = {"width": 32, "layers": 2, "heads": 2}
    config = MaiccRun(
        family="levers:levers",
        device="cpu",
        collect=CollectConfig(episodes=60, levels=[0.0, 0.5, 1.0], workers=1),
        decision=DecisionFit(model=DecisionConfig(**small), batch_size=48, steps=800),
        adapt=MaiccAdapt(episodes=40, runs=10, training_runs=0),
    )
    run(config, tmp_path / "run")
    result = json.loads((tmp_path / "run" / "adapt" / "result.json").read_text())
    returns = np.array([r["returns"] for r in result["runs"]])
    assert all(r["held_out"] for r in result["runs"])
    print(returns.mean(0))
    assert returns[:, -10:].mean() > 3.0
    assert returns[:, -10:].mean() - returns[:, :3].mean() > 0.6
