"""The tables of the documentation are those that the raw results give."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import yaml

from maicc.experiments.benchmark import benchmark
from maicc.files import read_json, write_json
from tests.conftest import tiny_config

DOCS = Path(__file__).parent.parent / "docs"
spec = importlib.util.spec_from_file_location("results", DOCS / "results.py")
results = importlib.util.module_from_spec(spec)
spec.loader.exec_module(results)
CLAIMS = yaml.safe_load((DOCS / "results" / "claims.yaml").read_text())


def test_the_page_is_what_the_results_give():
    assert (DOCS / "results.md").read_text() == results.page(), (
        "docs/results.md is not what docs/results/ gives: run `python docs/results.py write`"
    )


def test_every_result_is_shown():
    kept = {path.stem for path in (DOCS / "results").glob("*.json")}
    assert kept == {claim["results"] for claim in CLAIMS}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim["results"])
def test_the_page_of_a_family_has_the_same_table(claim):
    path = DOCS / "families" / f"{claim['results']}.md"
    if path.exists():
        text = path.read_text()
        rows = [line for line in results.section(claim) if line.startswith("|")]
        assert all(row in text for row in rows), f"{path.name}: not {rows}"


@pytest.mark.slow
def test_what_is_kept_of_a_benchmark_gives_its_table(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RAW", tmp_path)
    variants = {"default": {}, "no_context": {"decision.model.k": 0}}
    out = tmp_path / "out"
    table = benchmark(tiny_config(), variants, seeds=2, tasks=2, out=out)
    results.keep("tiny", out, "0123abc")
    raw = read_json(tmp_path / "tiny.json")
    assert results.played_at(raw["commits"]) == "commit `0123abc`"
    result = next((out / "results" / "no_context").glob(f"seed{raw['seeds'][1]}-*.json"))
    changed = read_json(result)
    changed["runs"][0]["returns"][0] += 0.5
    write_json(result, changed)
    results.keep("tiny", out, "4567def")
    commits = read_json(tmp_path / "tiny.json")["commits"]
    assert results.played_at(commits) == "commit `0123abc`; `no_context` at `4567def`"
    again, curves = results.tables(raw)
    lines = [row for row in table["rows"] if not row["variant"].startswith("behaviour")]
    assert [row["variant"] for row in lines] == ["default", "no_context", "scripted explorer"]
    for ours, theirs in zip(again["rows"], lines, strict=True):
        assert results.table_cells(ours) == results.table_cells(theirs)
    assert np.isclose(curves["default"][:, -1].mean(), lines[0]["last"], atol=1e-3)
