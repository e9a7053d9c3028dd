"""MAICC and its rivals in one table: the same frozen tasks, steps and statistics.

They have the same dataset, but for a rival whose `adopt` asks for one of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maicc.baselines import method_of
from maicc.config import RunConfig
from maicc.data.dataset import EpisodeFile
from maicc.evaluation.stats import probability_of_improvement
from maicc.experiments.benchmark import benchmark, gather, write_files
from maicc.experiments.plan import Plan
from maicc.files import write_json, write_text
from maicc.report.table import FurtherTable, markdown
from maicc.teams.lookups import first_and_last
from maicc.types import UserError

METHODS = {
    "better than the best other": "probability that a run ends above one of the best other method "
    "on the same task, by the mean return of the last ten episodes; ties count half",
    "seconds per episode": "wall-clock seconds of one run's episode, with many runs in lock step",
    "parameters": "count of the numbers in the networks that act",
    "trained on": "steps, and trajectories or episodes in each",
    "and given": "what training tells the method besides one agent's own experience",
}
RETRIEVAL = {
    "asks the dataset": "share of the look-ups that ask the dataset",
    "nearest task": "share of the dataset's trajectories that are of the nearest training tasks",
    "return gap": "mean return that retrieved trajectories miss to the maximum",
}


def compare(
    config: RunConfig, methods: Mapping[str, Mapping[str, Any]], **options: Any
) -> dict[str, Any]:
    """Trains and adapts every method that is not finished and writes the comparison.

    Args:
        config: Options that every method starts from; each method takes those that it has.
        methods: Options that each method sets, by its name.
        options: The other arguments of `benchmark`.

    Returns:
        The comparison, as written to `compare.json`.

    Raises:
        UserError: the options are another method's.
    """
    if config.method != "maicc":
        raise UserError(
            f"method={config.method}: a comparison starts from MAICC's options, of which every "
            "method takes what it has; leave the method out"
        )
    return benchmark(config, methods, write=write_comparison, **options)


def write_comparison(work: Plan) -> dict[str, Any]:
    """Writes the benchmark's table, and what a comparison adds: compare.json and compare.md."""
    table, curves = gather(work)
    methods = _methods(work, table, curves)
    write_files(work, table, curves, further_tables(methods))
    comparison = {"table": table, "methods": methods}
    write_json(work.out / "compare.json", comparison)
    write_text(work.out / "compare.md", comparison_markdown(comparison))
    return comparison


def _methods(
    work: Plan, table: Mapping[str, Any], curves: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Describes each method: what a comparison adds to the table."""
    methods = work.variants
    names = np.array([task.name for task in work.tasks] * len(work.seeds))
    last10 = {name: curves[name][:, -10:].mean(1) for name in methods}
    rows = []
    for row in table["rows"]:
        name = row["variant"]
        if name not in methods:
            continue
        results = work.results(name)
        unit = next(unit for unit in work.units if unit.variant == name)
        config, method = unit.config, method_of(unit.config.method)
        dataset = EpisodeFile(unit.files.episodes)
        rivals = [other for other in methods if other != name]
        best = max(rivals, key=lambda other: last10[other].mean(), default=None)
        runs_episodes = len(results) * len(work.tasks) * row["episodes"]
        rows.append(
            {
                "method": name,
                "better_than": best,
                "probability": best
                and round(probability_of_improvement(last10[name], last10[best], names), 4),
                "seconds_per_episode": round(
                    sum(r["adapt_seconds"] for r in results) / runs_episodes, 5
                ),
                "parameters": results[0].get("parameters", 0),
                "retrieval": first_and_last(results),
                "trained": method.trained_on(config),
                "given": method.told(config, dataset) if dataset.path.exists() else "unknown",
            }
        )
    return rows


def comparison_markdown(comparison: Mapping[str, Any]) -> str:
    """Writes the comparison as Markdown."""
    return markdown(comparison["table"], further_tables(comparison["methods"]))


def further_tables(methods: Sequence[Mapping[str, Any]]) -> list[FurtherTable]:
    """Makes the table of the methods, and that of their look-ups where any of them looks up."""
    tables = [FurtherTable("Methods", METHODS, [_method_cells(method) for method in methods])]
    if looking_up := [_retrieval_cells(method) for method in methods if method["retrieval"]]:
        title = "Retrieval, in the first ten and in the last ten episodes"
        tables.append(FurtherTable(title, RETRIEVAL, looking_up))
    return tables


def _method_cells(row: Mapping[str, Any]) -> list[str]:
    """Texts of one method: its name, and the columns of `METHODS`."""
    other = row["better_than"]
    return [
        row["method"],
        f"{row['probability']:.2f} ({other})" if other else "",
        f"{row['seconds_per_episode']:.3f}",
        f"{row['parameters']:,}",
        row["trained"],
        row["given"],
    ]


def _retrieval_cells(row: Mapping[str, Any]) -> list[str]:
    """Texts of one method: its name, and the columns of `RETRIEVAL`."""
    means = row["retrieval"]
    return [
        row["method"],
        _first_last(means, "offline", ".0%"),
        _first_last(means, "nearest_task", ".0%"),
        _first_last(means, "return_gap", ".2f"),
    ]


def _first_last(means: Mapping[str, Sequence[float | None]], name: str, style: str) -> str:
    """Text of a diagnostic in the first and in the last episodes."""
    texts = ["none" if value is None else format(value, style) for value in means.get(name, ())]
    return ", ".join(texts)
