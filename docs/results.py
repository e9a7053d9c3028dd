"""Results that the documentation shows: raw returns in docs/results/, and the page made of them.

    python docs/results.py keep NAME FOLDER --commit HASH    # a benchmark's, over what is there
    python docs/results.py write                             # docs/results.md
    python docs/results.py episodes NAME 1-5 41-50           # means of these episodes
    python docs/results.py teams NAME 0.3                    # how many solve, and how many end low
    python docs/results.py regret NAME LINE --of OTHER       # more regret than this line of OTHER

docs/results/claims.yaml lists the tables of the page in their order, with what is said of each.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import yaml

from maicc.data.returns import solved
from maicc.evaluation.markdown import markdown_legend, markdown_table
from maicc.experiments.proof import HEAD as PROOF_HEAD
from maicc.experiments.proof import cells, make_proof
from maicc.files import read_json, write_text
from maicc.report.table import COLUMNS, HEAD, make_table, table_cells
from maicc.types import Task

DOCS = Path(__file__).parent
RAW, PAGE = DOCS / "results", DOCS / "results.md"
RANDOM = "random actions"  # the line that has no seeds
YARDSTICKS = {
    RANDOM: "random.json",
    "scripted explorer": "explorer.json",
    "scripted explorer, replay": "explorer_replay.json",
}
TOP = """\
# Results

Every table on this page is made of the raw returns in docs/results/, one file for each, by
`python docs/results.py write`; a test makes them again. The command above a table makes its returns
anew. Below it is the commit at which its rows were played, and which were played at another. All
are from two CPU cores of an AMD EPYC or an Intel Xeon, one thread for each unit; which of the two
it was has not been noted, but for rows of commits `31ffb6e`, `7112e6d`, `073660e`, `9f2134e`,
`660e02e` and `78f0051`, which are from the EPYC. A sum depends on the processor, and after
thousands of steps so does a model: where two tables of a family do not share their models, MAICC
differs a little between them.

The [README](../README.md#words) explains the words run, task and held-out. It and the pages of the
[families](families/README.md) tell of other episodes of the same returns too, such as the first
five: `python docs/results.py episodes lbf_levels 1-5 6-10` prints their means and the shares that
are solved. `python docs/results.py teams lbf_levels_rivals 0.3` counts the teams that ever solve
their task and those that end below 0.3. `python docs/results.py regret lbf_8x8_retrieval decay`
compares with another row than the first, and `--of lbf_partners` with a row of another table.
"""
GAP = {
    "of the gap": "how far a line has come from memoryless, 0 %, to the oracle, 100 %, which are "
    "taken at their means over all episodes, so that it differs a little from what the columns give"
}
NOTE = """
Two models say little of how much trainings differ, so that intervals of two seeds are too narrow,
and they are not corrected for the number of rows. One that just misses 0 is a hint.
"""


def keep(name: str, folder: Path, commit: str) -> None:
    """Lays the returns of a benchmark's folder over those of docs/results/NAME.json.

    A seed or a line that the file lacks is added. Returns that were there keep their commit, and
    others get this one.

    Raises:
        SystemExit: the two are not of the same tasks, or a line would lack a seed of another one.
    """
    table, path = read_json(folder / "benchmark.json"), RAW / f"{name}.json"
    head = {key: table[key] for key in ("family", "return_min", "return_max", "tasks")}
    kept = read_json(path) if path.exists() else {**head, "seeds": [], "commits": {}, "returns": {}}
    if any(kept[key] != value for key, value in head.items()):
        raise SystemExit(f"{folder}: its family or tasks are not those of {path}")
    played: dict[str, dict[int, tuple[Any, str]]] = {}  # returns and commit, by line and seed
    for line, of_seeds in kept["returns"].items():
        seeds = [0] if line == RANDOM else kept["seeds"]
        rows = zip(of_seeds, _each(kept["commits"][line], len(of_seeds)), strict=True)
        played[line] = dict(zip(seeds, rows, strict=True))
    for line, seed, runs in _finished(folder, table):
        returns = [[round(value, 3) for value in run["returns"]] for run in runs]
        before = played.setdefault(line, {}).get(seed)
        if before is None or before[0] != returns:
            played[line][seed] = returns, commit
    seeds_of = {line: set(of) for line, of in played.items() if line != RANDOM}
    seeds = sorted(set().union(*seeds_of.values()))
    for line, has in seeds_of.items():
        if lacks := set(seeds) - has:
            raise SystemExit(f"{line}: no results of seeds {sorted(lacks)}; play them first")
    told = {
        line: [of_seeds[seed][1] for seed in sorted(of_seeds)] for line, of_seeds in played.items()
    }
    head = {
        "commits": {line: of[0] if len(set(of)) == 1 else of for line, of in told.items()},
        **{key: head[key] for key in ("family", "return_min", "return_max")},
        "seeds": seeds,
        "tasks": head["tasks"],
    }
    described = ",\n ".join(f'"{key}": {json.dumps(value)}' for key, value in head.items())
    text = ",\n".join(
        f'  "{line}": [\n'
        + ",\n".join(f"   {json.dumps(of_seeds[seed][0])}" for seed in sorted(of_seeds))
        + "\n  ]"
        for line, of_seeds in played.items()
    )
    write_text(path, f'{{{described},\n "returns": {{\n{text}\n }}}}\n')


def _finished(folder: Path, table: Mapping[str, Any]) -> Iterator[tuple[str, int, list[Any]]]:
    """Reads the finished runs of a folder's lines, seed by seed; random actions have seed 0.

    Raises:
        SystemExit: a line has two results of a seed, which are those of two benchmarks.
    """
    results = folder / "results"
    names = [row["variant"] for row in table["rows"]]
    names += sorted(path.name for path in results.iterdir() if path.is_dir())
    for line in dict.fromkeys(names):
        if line in YARDSTICKS:
            runs = read_json(results / YARDSTICKS[line])["runs"]
            for seed in sorted({run.get("seed", 0) for run in runs}):
                yield line, seed, [run for run in runs if run.get("seed", 0) == seed]
            continue
        seen: set[int] = set()
        for path in sorted((results / line).glob("seed*.json")):
            seed = int(path.name.removeprefix("seed").split("-")[0])
            if seed in seen:
                raise SystemExit(f"{path.parent}: two results of seed {seed}; leave one")
            seen.add(seed)
            yield line, seed, read_json(path)["runs"]


def _each(commits: str | list[str], seeds: int) -> list[str]:
    """Tells the commit of each seed of a line, for which one may stand for all."""
    return [commits] * seeds if isinstance(commits, str) else commits


def tables(
    raw: Mapping[str, Any], alike: str = "(.*)"
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Makes a benchmark's table, and the returns (runs, episodes) of its lines, of raw returns.

    Args:
        alike: What the names of tasks have in common that are resampled as one: the group of a
            regular expression. The whole name by default.
    """
    names = [re.match(alike, name)[1] for name in raw["tasks"]]
    tasks = [Task(raw["family"], name, {}) for name in names]
    results = {
        line: [
            {
                "runs": [
                    {"returns": returns, "task": {"name": tasks[i % len(tasks)].name}}
                    for i, returns in enumerate(runs)
                ]
            }
            for runs in seeds
        ]
        for line, seeds in raw["returns"].items()
    }
    bounds = raw["return_min"], raw["return_max"]
    return make_table(raw["family"], raw["seeds"], tasks, results, bounds)


def played_at(commits: Mapping[str, str | list[str]], seeds: Sequence[int]) -> str:
    """Says at which commits the lines of a table were played: one for all seeds, or several."""
    lines: dict[str, list[str]] = {}
    for line, commit in commits.items():
        of_seeds: dict[str, list[int]] = {}
        for seed, one in zip(seeds, _each(commit, len(seeds)), strict=True):
            of_seeds.setdefault(one, []).append(seed)
        each = [f"`{one}`" for one in of_seeds]
        if len(each) > 1:
            each = [
                f"{one} (seed{'s' * (len(of) > 1)} {', '.join(map(str, of))})"
                for one, of in zip(each, of_seeds.values(), strict=True)
            ]
        lines.setdefault(" and ".join(each), []).append(f"`{line}`")
    (first, _), *others = lines.items()
    told = [f"{' and '.join(names)} at {commit}" for commit, names in others]
    return "; ".join([f"commit {first}", *told])


def section(claim: Mapping[str, Any]) -> list[str]:
    """Writes one claim with its command and its table."""
    raw = read_json(RAW / f"{claim['results']}.json")
    table, curves = tables(raw, claim.get("alike", "(.*)"))
    if claim["table"] == "proof":
        proof = make_proof(table, curves)
        shown = markdown_table(PROOF_HEAD, map(cells, proof["rows"]))
    else:
        shown = markdown_table(HEAD, map(table_cells, table["rows"]))
    seeds = ", ".join(map(str, raw["seeds"]))
    tasks = f"{len(raw['tasks'])} {claim.get('tasks', 'held-out tasks')} each"
    told = f"Seeds {seeds}; {tasks}; {played_at(raw['commits'], raw['seeds'])}."
    return [
        f"## {claim['title']}", "",
        fill(f"**{claim['claim']}**", 100), "",
        f"    {claim['command']}", "",
        *shown, "", fill(told, 100), "", claim.get("text", "").strip(), "",
    ]  # fmt: skip


def episodes(name: str, windows: Sequence[str]) -> list[str]:
    """Makes a table of mean returns, and of shares solved, in some episodes.

    Args:
        name: File in docs/results/, without its ending.
        windows: First and last episode, counted from 1, such as "1-5".

    Raises:
        SystemExit: there is no such file, or it has no such episodes.
    """
    raw = _raw(name)
    bounds = raw["return_min"], raw["return_max"]
    rows = []
    for line, returns in tables(raw)[1].items():
        row = [line]
        for window in windows:
            ends = re.fullmatch(r"(\d+)-(\d+)", window)
            first, last = map(int, ends.groups()) if ends else (0, 0)
            if not 1 <= first <= last <= returns.shape[1]:
                raise SystemExit(f"{window}: give first-last, from 1 to {returns.shape[1]}")
            shown = returns[:, first - 1 : last]
            row.append(f"{shown.mean():.2f}, {solved(shown, bounds).mean():.0%}")
        rows.append(row)
    return markdown_table(["line", *windows], rows)


def teams(name: str, below: float) -> list[str]:
    """Makes a table of the teams that ever solve their task, and of those that end below a return.

    Args:
        below: What the mean return of the last ten episodes is compared with.
    """
    raw = _raw(name)
    bounds = raw["return_min"], raw["return_max"]
    rows = []
    for line, returns in tables(raw)[1].items():
        once, low = solved(returns, bounds).any(1), returns[:, -10:].mean(1) < below
        rows.append([line, *map(str, (len(returns), once.sum(), low.sum()))])
    return markdown_table(["line", "teams", "solve once", f"end below {below:g}"], rows)


def regret(name: str, first: str, of: str | None = None) -> list[str]:
    """Makes a table of how much more regret the lines have than one of them.

    Args:
        first: The line with which they are compared.
        of: Another file that this line is taken from, of the same tasks and seeds.

    Raises:
        SystemExit: there is no such line, or the two files are of other tasks or seeds.
    """
    raw, other = _raw(name), _raw(of or name)
    if first not in other["returns"]:
        raise SystemExit(f"no line {first}; there are {', '.join(other['returns'])}")
    if any(raw[key] != other[key] for key in ("tasks", "seeds")):
        raise SystemExit(f"{name} and {of} are not of the same tasks and seeds")
    lines = {line: x for line, x in raw["returns"].items() if of or line != first}
    compared = {f"{first} of {of}" if of else first: other["returns"][first], **lines}
    rows = tables({**raw, "returns": compared})[0]["rows"]
    shown = [table_cells(row)[HEAD.index("more regret")] for row in rows]
    return markdown_table(["line", "more regret"], zip(compared, shown, strict=True))


def _raw(name: str) -> dict[str, Any]:
    """Reads the raw returns of docs/results/NAME.json.

    Raises:
        SystemExit: there is no such file.
    """
    if name not in (kept := sorted(path.stem for path in RAW.glob("*.json"))):
        raise SystemExit(f"no results of {name}; there are {', '.join(kept)}")
    return read_json(RAW / f"{name}.json")


def page() -> str:
    """Writes the page."""
    claims = yaml.safe_load((RAW / "claims.yaml").read_text(encoding="utf-8"))
    sections = [line for claim in claims for line in section(claim)]
    legend = [fill(line, 100, subsequent_indent="  ") for line in markdown_legend(COLUMNS | GAP)]
    return "\n".join([TOP, *legend, NOTE, *sections]).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("write")
    of_episodes = commands.add_parser("episodes")
    of_episodes.add_argument("name")
    of_episodes.add_argument("windows", nargs="+")
    of_teams = commands.add_parser("teams")
    of_teams.add_argument("name")
    of_teams.add_argument("below", type=float)
    of_regret = commands.add_parser("regret")
    of_regret.add_argument("name")
    of_regret.add_argument("line")
    of_regret.add_argument("--of")
    of_run = commands.add_parser("keep")
    of_run.add_argument("name")
    of_run.add_argument("folder", type=Path)
    of_run.add_argument("--commit", required=True)
    options = parser.parse_args()
    if options.command == "keep":
        keep(options.name, options.folder, options.commit)
    elif options.command == "episodes":
        print("\n".join(episodes(options.name, options.windows)))
    elif options.command == "teams":
        print("\n".join(teams(options.name, options.below)))
    elif options.command == "regret":
        print("\n".join(regret(options.name, options.line, options.of)))
    else:
        write_text(PAGE, page())


if __name__ == "__main__":
    main()
