"""The notebook in examples/ runs from its first cell to its last."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import pytest

NOTEBOOK = Path(__file__).parent.parent / "examples" / "adaptation.ipynb"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    names: dict = {}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert (tmp_path / "runs" / "notebook" / "replay.html").exists()
    returns = names["returns"]
    assert returns.shape == (8, 20)
    assert returns[:, -5:].mean() > returns[:, :3].mean()  # it has learned something
    assert names["team"].returns.shape == (1, 15)
