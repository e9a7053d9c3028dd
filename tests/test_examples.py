"""Third-party environments as in `examples/`: the contract, and the whole pipeline in small."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from maicc.data.contract import check_contract
from maicc.data.dataset import EpisodeFile
from maicc.envs import get_family
from maicc.experiments.run import run
from tests.conftest import tiny_config

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = [
    ("spread", "mpe2"),
    ("foraging", "lbforaging"),
    ("warehouse", "rware"),
    ("zombies", "pettingzoo"),
    ("codebook", "pettingzoo"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "package"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_an_example_keeps_its_contract_and_runs(name, package, tmp_path, monkeypatch):
    pytest.importorskip(package, reason="the extra `examples` is not installed")
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr("maicc.data.contract._SECONDS", 0.05)
    family = get_family(f"{name}:{name}")
    failed = [v for v in check_contract(family) if not v.fine]
    assert not failed
    config = tiny_config(family=f"{name}:{name}")
    config.adapt.episodes = 2
    run(config, tmp_path / "run")
    spec = EpisodeFile(tmp_path / "run" / "episodes.h5").spec
    assert spec.return_min < spec.return_max
    result = json.loads((tmp_path / "run" / "adapt" / "result.json").read_text())
    for played in result["runs"]:
        assert np.isfinite(played["returns"]).all()
        assert len(played["returns"]) == config.adapt.episodes
    assert (tmp_path / "run" / "report.html").exists()


def test_third_party_environments_need_few_lines():
    for name, _ in EXAMPLES[:4]:
        path = FOLDER / f"{name}.py"
        code = [line for line in path.read_text().splitlines() if line.strip()]
        assert len(code) <= 35, path.name


def test_the_tutorials_family_keeps_its_contract(tmp_path, monkeypatch):
    text = (FOLDER.parent / "docs" / "tutorial.md").read_text()
    (tmp_path / "levers.py").write_text(text.split("```python\n")[1].split("```")[0])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("maicc.data.contract._SECONDS", 0.05)
    verdicts = list(check_contract(get_family("levers:levers")))
    assert all(v.fine for v in verdicts), [v for v in verdicts if not v.fine]
