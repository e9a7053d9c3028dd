"""Table of a benchmark, from the results of its units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maicc.data.returns import COMPLETION_MARGIN, solved
from maicc.evaluation.markdown import markdown_table
from maicc.evaluation.stats import (
    bootstrap_ci95,
    episodes_to,
    found_and_kept,
    iqm,
    mean_ci95,
    regret,
)
from maicc.types import Task

SCHEMA = 1
HEAD = (
    "variant", "runs", "episodes", "last", "first 10", "last 10", "last 10, IQM", "solved", "found",
    "kept", "regret", "to 85 %",
)  # fmt: skip


def make_table(
    family: str,
    seeds: Sequence[int],
    tasks: Sequence[Task],
    results: Mapping[str, Sequence[Mapping[str, Any]]],
    bounds: tuple[float, float],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Makes the table of a benchmark.

    Args:
        family: Name of the task family.
        seeds: Seeds of the models.
        tasks: Tasks of every unit.
        results: Results of each variant, one for each finished seed. Variants without results are
            left out.
        bounds: Lowest and highest return.

    Returns:
        The table in plain JSON, and the returns (runs, episodes) of each variant.
    """
    rows: list[dict[str, Any]] = []
    curves: dict[str, np.ndarray] = {}
    for variant, variant_results in results.items():
        if not variant_results:
            continue
        runs = [run for result in variant_results for run in result["runs"]]
        returns = np.array([run["returns"] for run in runs])
        strata = np.array([run["task"]["name"] for run in runs])
        rows.append({"variant": variant, **table_row(returns, strata, bounds)})
        curves[variant] = returns
    return {
        "schema": SCHEMA,
        "family": family,
        "return_min": bounds[0],
        "return_max": bounds[1],
        "seeds": list(seeds),
        "tasks": [task.name for task in tasks],
        "rows": rows,
    }, curves


def table_row(
    returns: np.ndarray, strata: np.ndarray, bounds: tuple[float, float]
) -> dict[str, Any]:
    """Computes the statistics of one variant.

    Args:
        returns: (runs, episodes).
        strata: Task of each run, (runs,).
        bounds: Lowest and highest return.
    """
    last, last_ci = mean_ci95(returns[:, -1])
    last10 = returns[:, -10:].mean(1)
    repeated = len(np.unique(strata)) < len(strata)  # else there is nothing to resample
    interval = [round(end, 4) for end in bootstrap_ci95(last10, strata)] if repeated else None
    reached = solved(returns, bounds)
    first_solved, solved_again = found_and_kept(reached)
    curve, (low, high) = returns.mean(0), bounds
    return {
        "runs": len(returns),
        "episodes": returns.shape[1],
        "last": round(last, 4),
        "last_ci95": round(last_ci, 4),
        "first10": round(float(returns[:, :10].mean()), 4),
        "last10": round(float(last10.mean()), 4),
        "last10_ci95": round(mean_ci95(last10)[1], 4),
        "last10_iqm": round(iqm(last10), 4),
        "last10_iqm_ci95": interval,
        "solved_last10": round(float(reached[:, -10:].mean()), 4),
        "found": first_solved,
        "kept": None if solved_again is None else round(solved_again, 4),
        "regret_per_episode": round(float(regret(returns, high).mean() / len(curve)), 4),
        "episodes_to_85": episodes_to(curve, low + 0.85 * (high - low)),
    }


def markdown(table: Mapping[str, Any]) -> str:
    """Writes the table as Markdown, after a paragraph that explains its columns."""
    lines = [
        f"{table['family']}, seeds {table['seeds']}, {len(table['tasks'])} tasks each. The mean of "
        "the last episode with its normal 95 % interval over runs; the interquartile mean of the "
        "last ten, with a 95 % bootstrap interval stratified by task where tasks have several "
        "runs; the share of the last ten that reach the maximum, to within "
        f"{COMPLETION_MARGIN:.0%}; the episode by which half of the runs have reached it once "
        "(found), and the share of a run's later episodes that reach it again (kept); regret per "
        "episode; the first episode whose 5-episode "
        "mean has gone 85 % of the way from the lowest return "
        f"{table['return_min']:g} to the maximum {table['return_max']:g}.",
        "",
        *markdown_table(HEAD, map(_cells, table["rows"])),
    ]
    return "\n".join(lines) + "\n"


def _cells(row: Mapping[str, Any]) -> list[str]:
    """Texts of one row of the table, in the order of `HEAD`."""
    interval = row["last10_iqm_ci95"]
    spread = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""
    return [
        row["variant"],
        str(row["runs"]),
        str(row["episodes"]),
        f"{row['last']:.2f} ± {row['last_ci95']:.2f}",
        f"{row['first10']:.2f}",
        f"{row['last10']:.2f} ± {row['last10_ci95']:.2f}",
        f"{row['last10_iqm']:.2f}{spread}",
        f"{row['solved_last10']:.0%}",
        str(row["found"] or "never"),
        "" if row["kept"] is None else f"{row['kept']:.0%}",
        f"{row['regret_per_episode']:.2f}",
        str(row["episodes_to_85"] or "never"),
    ]
