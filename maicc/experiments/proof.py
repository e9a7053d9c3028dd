"""Proof that the tasks of a family hide something, and that a team finds it out.

It has four lines on the same held-out tasks: an oracle that is told the hidden part, a model
without memory, random actions, and the team that adapts. Memory is worth something where the oracle
is far above the model without memory. How much of that gap a team closes is its share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from maicc.config import RunConfig
from maicc.envs import get_family
from maicc.evaluation.markdown import markdown_table
from maicc.experiments.benchmark import finish, gather, write_files
from maicc.experiments.plan import Plan, plan
from maicc.experiments.yardsticks import run_random
from maicc.files import write_json, write_text
from maicc.types import UserError

ORACLE, MEMORYLESS = "oracle", "memoryless"
LEAST_GAP = 0.05  # of the range of returns, below which shares of the gap would mean nothing
_NO_MEMORY: dict[str, Any] = {
    "method": "maicc",
    "decision.model.record": 0,
    "decision.model.k": 0,
    "adapt.memory.replay": False,
    "practice.rounds": 0,
}
HEAD = ("line", "runs", "first 10", "last 10", "of the gap, first 10", "of the gap, last 10")
LEGEND = """\
- *oracle*: a model without memory whose observations end with the hidden part of the task.
- *memoryless*: the same model, which is not told it.
- *of the gap*: how far a line has come from memoryless, 0 %, to the oracle, 100 %. Both are taken
  at their mean over all episodes."""


def prove(
    config: RunConfig,
    variants: Mapping[str, Mapping[str, Any]],
    *,
    seeds: int,
    tasks: int,
    draw: str = "held_out",
    out: Path,
    data: Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Runs the variants and both controls, and writes the table of lines.

    Args:
        config, variants, seeds, tasks, out, draw, data: Those of `benchmark`.
        options: Those of `finish`.

    Returns:
        The table of lines, as in `proof.json`.

    Raises:
        UserError: the family has no `reveal`, or a variant has the name of a line of the proof.
    """
    for name in (MEMORYLESS, ORACLE):
        if name in variants:
            raise UserError(f"--proof has a line {name!r} of its own: rename the variant")
    controls = {
        MEMORYLESS: _NO_MEMORY,
        ORACLE: {"family": get_family(config.family).revealed().name, **_NO_MEMORY},
    }
    lines = {**variants, **controls}
    work = plan(config, lines, seeds=seeds, tasks=tasks, out=out, draw=draw, data=data)
    hidden = {u.config.seed: u for u in work.units if u.variant == MEMORYLESS}
    units = [
        replace(u, hidden=hidden[u.config.seed]) if u.variant == ORACLE else u for u in work.units
    ]
    work = replace(work, units=units)
    run_random(work)
    finish(work, **options)
    return write_proof(work)


def write_proof(work: Plan) -> dict[str, Any]:
    """Writes the benchmark's table, and the lines with their shares of the gap: proof.json, .md."""
    table, curves = gather(work)
    write_files(work, table, curves)
    proof = make_proof(table, curves)
    write_json(work.out / "proof.json", proof)
    write_text(work.out / "proof.md", markdown(proof))
    return proof


def make_proof(table: Mapping[str, Any], curves: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Makes the table of lines.

    Args:
        table: The benchmark's table.
        curves: Returns (runs, episodes) of each line.
    """
    low, high = (float(curves[name].mean()) for name in (MEMORYLESS, ORACLE))
    gap = (high - low) / (table["return_max"] - table["return_min"])
    rows = []
    for name, returns in curves.items():
        ends = [float(part.mean()) for part in (returns[:, :10], returns[:, -10:])]
        shares = [(end - low) / (high - low) if gap >= LEAST_GAP else None for end in ends]
        rows.append(
            {
                "line": name,
                "runs": len(returns),
                "first10": round(ends[0], 4),
                "last10": round(ends[1], 4),
                "shares": [share and round(share, 4) for share in shares],
            }
        )
    return {
        "family": table["family"], "seeds": table["seeds"], "tasks": table["tasks"],
        "memoryless": round(low, 4), "oracle": round(high, 4), "gap": round(gap, 4), "rows": rows,
    }  # fmt: skip


def markdown(proof: Mapping[str, Any]) -> str:
    """Writes the lines as Markdown."""
    lines = [
        f"{proof['family']}, seeds {proof['seeds']}, {len(proof['tasks'])} tasks each. The oracle "
        f"has {proof['oracle']:.2f} and memoryless {proof['memoryless']:.2f} on average: "
        f"{proof['gap']:.0%} of the range of returns lies between them"
        + ("." if proof["gap"] >= LEAST_GAP else ", too little to tell shares of it."),
        "",
        LEGEND,
        "",
        *markdown_table(HEAD, map(cells, proof["rows"])),
    ]
    return "\n".join(lines) + "\n"


def cells(row: Mapping[str, Any]) -> list[str]:
    """Texts of one line, in the order of `HEAD`."""
    shares = ["" if share is None else f"{round(share, 2) + 0.0:.0%}" for share in row["shares"]]
    return [
        row["line"], str(row["runs"]), f"{row['first10']:.2f}", f"{row['last10']:.2f}", *shares,
    ]  # fmt: skip
