"""The tables of the documentation are those that the raw results give."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml

from maicc.data.returns import solved
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


def cells(line):
    """Splits a row of a Markdown table into its cells, without stress."""
    return [cell.strip().replace("*", "") for cell in line.strip("|\n").split("|")]


def line_of(label):
    """Tells which line of the results a row is about: the name in backticks, or its first word."""
    named = re.search(r"`(\w+)`", label)
    return named.group(1) if named else re.split(r"\W", label)[0].lower()


@cache
def shown_of(name):
    """Rows of the table that results give, by their names, and the returns of each."""
    table, curves = results.tables(read_json(DOCS / "results" / f"{name}.json"))
    return {row["variant"]: row for row in table["rows"]}, curves


def test_readme_shows_what_the_results_give():
    text = (DOCS.parent / "README.md").read_text()
    boards = text[text.index("| board | method |") :].split("\n\n")[0].splitlines()[2:]
    rivals = text[text.index("| 7x7, 50 teams each |") :].split("\n\n")[0].splitlines()[2:]
    lines = {"MAICC": "default"}  # and the scripted explorer has its own name
    rows = [
        (f"lbf_{board}", lines.get(line, line), numbers)
        for board, line, *numbers in map(cells, boards)
    ]
    rows += [("lbf_7x7_rivals", line_of(r.strip("| *")), cells(r)[1:]) for r in rivals]
    for name, line, numbers in rows:
        given = dict(zip(results.HEAD, results.table_cells(shown_of(name)[0][line]), strict=True))
        shown = dict(zip(["first 10", "last 10", "found", "kept", "regret"], numbers, strict=True))
        shown = {
            key: cell.removeprefix("episode ").replace(" %", "%") for key, cell in shown.items()
        }
        shown["kept"] = shown["kept"].replace("none", "")
        given["last 10"] = given["last 10"].split(" ")[0]
        assert shown == {key: given[key] for key in shown}, (name, line)


def test_readme_says_by_when_every_team_finds_the_food():
    latest = 0
    for name in ("lbf_7x7", "lbf_9x9"):
        found = solved(shown_of(name)[1]["default"], (0.0, 2.0))
        assert found.shape[0] == 50
        assert found.any(1).all()
        latest = max(latest, found.argmax(1).max() + 1)
    text = " ".join((DOCS.parent / "README.md").read_text().split())
    assert f"all of 100 teams had found the food by episode {latest} ([results]" in text


def test_readme_shows_how_much_teams_find_out():
    text = (DOCS.parent / "README.md").read_text()
    shown = text[text.index("| hidden | family |") :].split("\n\n")[0].splitlines()[2:]
    claims = {claim["results"]: claim for claim in CLAIMS if claim["table"] == "proof"}
    assert len(shown) == len(claims)
    for _, family, *numbers in map(cells, shown):
        proof = [cells(row) for row in results.section(claims[family.strip("`")]) if row[:1] == "|"]
        head, lines = proof[0], {row[0]: dict(zip(proof[0], row, strict=True)) for row in proof}
        default, forgets, told = (lines[line] for line in ("default", "memoryless", "oracle"))
        given = [forgets["last 10"], default["first 10"], default["last 10"], told["last 10"]]
        assert numbers == [*given, default[head[-1]].replace("%", " %")], family


def test_readme_shows_where_rivals_end():
    text = (DOCS.parent / "README.md").read_text()
    head, _, *rows = text[text.index("| method | `lbf_levels` |") :].split("\n\n")[0].splitlines()
    for i, family in enumerate(cells(head)[1:], start=1):
        _, curves = shown_of(f"{family.strip('`')}_rivals")
        shown = {line_of(label): row[i - 1] for label, *row in map(cells, rows)}
        ends = {line: f"{curves[line][:, -10:].mean():.2f}" for line in shown if line in curves}
        assert shown == dict.fromkeys(shown, "") | ends, family


@pytest.mark.parametrize("family", ["lbf_levels", "lbf_partners", "smax_commander", "mpe_codebook"])
def test_the_page_of_a_family_has_the_same_returns_of_rivals(family):
    name = f"{family}_rivals"
    until = shown_of(name)[1]["maicc"].shape[1]
    given = [
        [cells(row)[0], *(cell.split(", ") for cell in cells(row)[1:])]
        for row in results.episodes(name, ["1-5", "6-10", "1-10", f"{until - 9}-{until}"])[2:]
    ]
    rows = iter((DOCS / "families" / f"{family}.md").read_text().splitlines())
    assert any(row.startswith("| method | episodes 1 to 5 | 6 to 10 |") for row in rows)
    next(rows)
    for line, *windows in given:
        label, *numbers = cells(next(rows))
        assert line_of(label) == line
        assert numbers[:4] == [mean for mean, _ in windows], label
        assert not numbers[4:] or numbers[4:] == [windows[-1][1].replace("%", " %")], label


@pytest.mark.parametrize("window", ["0-5", "6-2", "45-51", "5", "a-b"])
def test_episodes_that_a_table_does_not_have_are_refused(window):
    with pytest.raises(SystemExit, match=f"{window}: give first-last, from 1 to 50"):
        results.episodes("lbf_9x9", ["1-5", window])
    with pytest.raises(SystemExit, match=r"no results of nothing; there are lbf_7x7, "):
        results.episodes("nothing", ["1-5"])


def test_teams_that_solve_and_that_end_low_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RAW", tmp_path)
    results.keep("tiny", a_benchmark(tmp_path / "run", {"maicc": [1, 2], "dpt": [1, 2]}), "0123abc")
    counted = results.teams("tiny", 1.0)[2:]  # returns of a team: its seed, then 0 or 1/3
    assert counted == ["| maicc | 4 | 2 | 2 |", "| dpt | 4 | 2 | 2 |"]


def test_any_line_can_be_the_one_that_others_are_compared_with(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RAW", tmp_path)
    first = a_benchmark(tmp_path / "first", {"maicc": [0, 1], "dpt": [0, 1]})
    results.keep("first", first, "0123abc")
    results.keep("second", a_benchmark(tmp_path / "second", {"ad": [0, 1]}), "0123abc")
    results.keep("fewer", a_benchmark(tmp_path / "fewer", {"ad": [0]}), "0123abc")
    same = "+0.00 [+0.00, +0.00]"
    assert results.regret("first", "dpt")[2:] == ["| dpt |  |", f"| maicc | {same} |"]
    rows = ["| maicc of first |  |", f"| ad | {same} |"]
    assert results.regret("second", "maicc", "first")[2:] == rows
    with pytest.raises(SystemExit, match="no line at; there are maicc, dpt"):
        results.regret("first", "at")
    with pytest.raises(SystemExit, match="not of the same tasks and seeds"):
        results.regret("first", "ad", "fewer")


@pytest.mark.slow
def test_what_is_kept_of_a_benchmark_gives_its_table(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RAW", tmp_path)
    variants = {"default": {}, "no_context": {"decision.model.k": 0}}
    out = tmp_path / "out"
    table = benchmark(tiny_config(), variants, seeds=2, tasks=2, out=out)
    results.keep("tiny", out, "0123abc")
    raw = read_json(tmp_path / "tiny.json")
    assert results.played_at(raw["commits"], raw["seeds"]) == "commit `0123abc`"
    result = next((out / "results" / "no_context").glob(f"seed{raw['seeds'][1]}-*.json"))
    changed = read_json(result)
    changed["runs"][0]["returns"][0] += 0.5
    write_json(result, changed)
    results.keep("tiny", out, "4567def")
    commits = read_json(tmp_path / "tiny.json")["commits"]
    first, second = raw["seeds"]
    anew = f"`no_context` at `0123abc` (seed {first}) and `4567def` (seed {second})"
    assert results.played_at(commits, raw["seeds"]) == f"commit `0123abc`; {anew}"
    again, curves = results.tables(raw)
    lines = [row for row in table["rows"] if not row["variant"].startswith("behaviour")]
    assert [row["variant"] for row in lines] == [
        "default", "no_context", "scripted explorer", "scripted explorer, replay",
    ]  # fmt: skip
    for ours, theirs in zip(again["rows"], lines, strict=True):
        assert results.table_cells(ours) == results.table_cells(theirs)
    assert np.isclose(curves["default"][:, -1].mean(), lines[0]["last"], atol=1e-3)


def a_benchmark(folder, played, tasks=("a", "b")):
    """Writes what `keep` reads of a finished benchmark of two runs a seed."""
    table = {"family": "tiny", "return_min": 0, "return_max": 2, "tasks": list(tasks)}
    rows = [{"variant": line} for line in played]
    write_json(folder / "benchmark.json", table | {"seeds": [0], "rows": rows})
    for line, seeds in played.items():
        for seed in seeds:
            runs = [{"returns": [seed, run / 3]} for run in range(2)]
            (folder / "results" / line).mkdir(parents=True, exist_ok=True)
            write_json(folder / "results" / line / f"seed{seed}-0.json", {"runs": runs})
    return folder


def test_lines_and_seeds_are_added_to_what_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RAW", tmp_path)
    path = tmp_path / "tiny.json"
    results.keep("tiny", a_benchmark(tmp_path / "first", {"maicc": [0], "dpt": [0]}), "0123abc")
    first = path.read_bytes()
    with pytest.raises(SystemExit, match=r"dpt: no results of seeds \[1\]; play them first"):
        results.keep("tiny", a_benchmark(tmp_path / "half", {"maicc": [1]}), "4567def")
    with pytest.raises(SystemExit, match="its family or tasks are not those of"):
        results.keep("tiny", a_benchmark(tmp_path / "other", {"maicc": [0]}, "cd"), "4567def")
    assert path.read_bytes() == first
    more = {"ad": [0, 1], "maicc": [1, 0], "dpt": [1]}
    results.keep("tiny", a_benchmark(tmp_path / "more", more), "4567def")
    raw = read_json(path)
    both, new = ["0123abc", "4567def"], "4567def"
    assert list(raw["commits"].items()) == [("maicc", both), ("dpt", both), ("ad", new)]
    assert raw["seeds"] == [0, 1]
    seeds = [[[0, 0], [0, 0.333]], [[1, 0], [1, 0.333]]]
    assert raw["returns"] == {"maicc": seeds, "dpt": seeds, "ad": seeds}
    (tmp_path / "more" / "results" / "ad" / "seed1-1.json").write_text("{}")
    with pytest.raises(SystemExit, match="ad: two results of seed 1; leave one"):
        results.keep("tiny", tmp_path / "more", "4567def")
