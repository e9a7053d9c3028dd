"""Table of a benchmark, from the results of its units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from maicc.data.returns import COMPLETION_MARGIN, normalised, solved
from maicc.evaluation.markdown import markdown_legend, markdown_table
from maicc.evaluation.stats import (
    bootstrap_ci95,
    crossed_ci95,
    episodes_to,
    found_and_kept,
    iqm,
    mean_ci95,
)
from maicc.types import Task

SCHEMA = 1
HEAD = (
    "variant", "runs", "episodes", "last", "first 10", "last 10", "last 10, IQM", "solved", "found",
    "kept", "regret", "more regret", "to 85 %",
)  # fmt: skip

THRESHOLDS = np.linspace(0.0, 1.0, 51).round(2)  # of performance profiles, of normalised returns
RESAMPLED = (
    "seeds and tasks are resampled, each for itself, since neither the runs of one model nor the "
    "runs on one task are independent; with one seed, runs within their task, where tasks have "
    "several"
)
# what the columns tell, in their order
COLUMNS = {
    "last": "mean return of the last episode",
    "first 10, last 10": "mean return of the first and of the last ten episodes",
    "±": "half of a normal 95 % interval over runs as if all were independent, which the runs of "
    "one model are not: it is too narrow",
    "IQM": f"interquartile mean with a 95 % bootstrap interval, for which {RESAMPLED}",
    "solved": "share of the last ten episodes that reach the maximum, to within "
    f"{100 * COMPLETION_MARGIN:.0f} %",
    "found": "the episode by which half of the runs have reached it once",
    "kept": "share of a run's episodes after its first solved one that are solved too, over the "
    "runs that solve their task at all",
    "regret": "what an episode misses to the maximum",
    "more regret": "how much more regret a row has than the first on the same tasks, with a 95 % "
    "bootstrap interval that resamples seeds and tasks: where it holds 0 the two can't be told "
    "apart. With one seed it resamples tasks alone, and tells nothing of what another training "
    "would give",
    "to 85 %": "the first episode whose 5-episode mean has gone 85 % of the way from the lowest "
    "return to the maximum; 5 is the least",
}


class FurtherTable(NamedTuple):
    """A further table that a comparison adds to the benchmark's.

    Args:
        title: Its title.
        columns: What the columns tell, by their names, behind the first column of methods.
        rows: Texts of the rows, with the method in front.
    """

    title: str
    columns: Mapping[str, str]
    rows: Sequence[Sequence[str]]


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
    all_runs = len(seeds) * len(tasks)
    first: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None  # row: returns, tasks, models
    for variant, variant_results in results.items():
        if not variant_results:
            continue
        runs = [run for result in variant_results for run in result["runs"]]
        returns = np.array([run["returns"] for run in runs])
        played = np.array([run["task"]["name"] for run in runs])
        models = np.repeat(range(len(variant_results)), [len(r["runs"]) for r in variant_results])
        rows.append({"variant": variant, **table_row(returns, played, bounds, models)})
        curves[variant] = returns
        if first is None:
            first = returns, played, models
        elif (
            len(runs) == all_runs > 1  # else it may be of other seeds
            and returns.shape == first[0].shape
            and (played == first[1]).all()
        ):
            rows[-1] |= more_regret(returns, *first)
    return {
        "schema": SCHEMA,
        "family": family,
        "return_min": bounds[0],
        "return_max": bounds[1],
        "seeds": list(seeds),
        "tasks": [task.name for task in tasks],
        "thresholds": THRESHOLDS.tolist(),
        "rows": rows,
    }, curves


def table_row(
    returns: np.ndarray,
    tasks: np.ndarray,
    bounds: tuple[float, float],
    models: np.ndarray | None = None,
) -> dict[str, Any]:
    """Computes the statistics of one variant.

    Args:
        returns: (runs, episodes).
        tasks: Task of each run, (runs,).
        bounds: Lowest and highest return.
        models: Model of each run, (runs,); one for all runs if None.
    """
    last, last_ci = mean_ci95(returns[:, -1])
    last10 = returns[:, -10:].mean(1)
    above = normalised(last10, *bounds)[:, None] > THRESHOLDS  # (runs, thresholds)
    profile, interval = {"share": above.mean(0)}, None
    resampled: Callable[..., tuple[Any, Any]] | None = None
    if models is not None and len(np.unique(models)) > 1:
        resampled = partial(crossed_ci95, models=models, tasks=tasks)
    elif len(np.unique(tasks)) < len(tasks):  # else there is nothing to resample
        resampled = partial(bootstrap_ci95, strata=tasks)
    if resampled is not None:
        interval = [round(end, 4) for end in resampled(last10)]
        ends = resampled(above, statistic=np.mean)
        profile |= dict(zip(("low", "high"), ends, strict=True))
    reached = solved(returns, bounds)
    first_solved, solved_again = found_and_kept(reached)
    curve, (low, high) = returns.mean(0), bounds
    return {
        "runs": len(returns),
        "episodes": returns.shape[1],
        "last": round(float(last), 4),
        "last_ci95": round(float(last_ci), 4),
        "first10": round(float(returns[:, :10].mean()), 4),
        "last10": round(float(last10.mean()), 4),
        "last10_ci95": round(float(mean_ci95(last10)[1]), 4),
        "last10_iqm": round(float(iqm(last10)), 4),
        "last10_iqm_ci95": interval,
        "solved_last10": round(float(reached[:, -10:].mean()), 4),
        "found": first_solved,
        "kept": None if solved_again is None else round(solved_again, 4),
        "regret_per_episode": round(float(high - returns.mean()), 4),
        "episodes_to_85": episodes_to(curve, low + 0.85 * (high - low)),
        "profile": {name: part.round(4).tolist() for name, part in profile.items()},
    }


def more_regret(
    returns: np.ndarray, first: np.ndarray, tasks: np.ndarray, models: np.ndarray
) -> dict[str, Any]:
    """Compares the regret per episode of a variant with that of the table's first, run by run.

    Args:
        returns: (runs, episodes).
        first: Returns of the first variant on the same tasks in the same order.
        tasks: Task of each run, (runs,).
        models: Seed of each run, (runs,). Seeds and tasks are resampled; tasks alone if there is
            one seed.

    Returns:
        The mean of the differences as `more_regret`, and its 95 % interval as `more_regret_ci95`.
    """
    more = (first - returns).mean(1)
    ends = crossed_ci95(more, models, tasks, np.mean)
    return {
        "more_regret": round(float(more.mean()), 4),
        "more_regret_ci95": [round(end, 4) for end in ends],
    }


def markdown(table: Mapping[str, Any], more: Sequence[FurtherTable] = ()) -> str:
    """Writes the table as Markdown, after a list that explains its columns, and further tables."""
    lines = [
        f"{table['family']}, seeds {table['seeds']}, {len(table['tasks'])} tasks each, returns "
        f"from {table['return_min']:g} to {table['return_max']:g}.",
        "",
        *markdown_legend(COLUMNS),
        "",
        *markdown_table(HEAD, map(table_cells, table["rows"])),
    ]
    for title, columns, rows in more:
        head = ("method", *columns)
        lines += ["", f"{title}:", "", *markdown_legend(columns), "", *markdown_table(head, rows)]
    return "\n".join(lines) + "\n"


def table_cells(row: Mapping[str, Any]) -> list[str]:
    """Texts of one row of the table, in the order of `HEAD`."""
    interval = row["last10_iqm_ci95"]
    spread = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""
    more = ""
    if "more_regret" in row:
        low, high = row["more_regret_ci95"]
        more = f"{row['more_regret']:+.2f} [{low:+.2f}, {high:+.2f}]"  # -0.00 is just below 0
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
        more,
        str(row["episodes_to_85"] or "never"),
    ]
