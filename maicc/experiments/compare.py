"""MAICC and its rivals in one table: the same dataset, frozen tasks, steps and statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maicc.baselines import method_of
from maicc.config import RunConfig
from maicc.evaluation.stats import probability_of_improvement
from maicc.experiments.benchmark import Plan, finish, gather, plan, write_table
from maicc.files import write_json, write_text
from maicc.report import write_benchmark
from maicc.report.table import markdown
from maicc.teams.lookups import first_and_last


def compare(
    config: RunConfig,
    methods: Mapping[str, Mapping[str, Any]],
    *,
    seeds: int,
    tasks: int,
    out: Path,
    draw: str = "held_out",
    threads: int = 1,
    cluster: str | None = None,
    behaviours: bool = False,
) -> dict[str, Any]:
    """Trains and adapts every method that is not finished and writes the comparison to `out`.

    Args:
        config: What every method starts from; each takes the options that it has.
        methods: By name, the options a method sets.
        seeds, tasks, out, draw, threads, cluster, behaviours: Those of `benchmark`.

    Returns:
        The comparison, as written to `compare.json`.
    """
    work = plan(config, methods, seeds=seeds, tasks=tasks, out=out, draw=draw)
    finish(work, threads=threads, cluster=cluster, behaviours=behaviours)
    write_table(work)
    table, curves = gather(work)
    comparison = {"table": table, "methods": _rows(work, table, curves, list(methods))}
    write_json(work.out / "compare.json", comparison)
    write_text(work.out / "compare.md", comparison_markdown(comparison))
    write_benchmark(work.out, table, curves, work.flat, comparison["methods"])
    return comparison


def _rows(
    work: Plan,
    table: Mapping[str, Any],
    curves: Mapping[str, np.ndarray],
    methods: Sequence[str],
) -> list[dict[str, Any]]:
    """The columns that a comparison adds to the table, by method."""
    names = np.array([task.name for task in work.tasks] * len(work.seeds))
    last10 = {name: curves[name][:, -10:].mean(1) for name in methods}
    rows = []
    for row in table["rows"]:
        name = row["variant"]
        if name not in methods:
            continue
        results = work.results(name)
        config = next(unit.config for unit in work.units if unit.variant == name)
        method = method_of(config.method)
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
                "given": method.told(config),
            }
        )
    return rows


def comparison_markdown(comparison: Mapping[str, Any]) -> str:
    """Both tables as Markdown."""
    lines = [
        markdown(comparison["table"]),
        "Probability that a run of the method ends, in the mean of the last ten episodes, above "
        "one of the best other method on the same task, ties counted half; wall-clock seconds of "
        "one run's episode, many runs in lock step; numbers in the parameters of what acts.",
        "",
        "| method | better than the best other | seconds per episode | parameters | trained on "
        "| and given |",
        "|---|---|---|---|---|---|",
    ]
    for row in comparison["methods"]:
        chance = f"{row['probability']:.2f} ({row['better_than']})" if row["better_than"] else ""
        lines.append(
            f"| {row['method']} | {chance} | {row['seconds_per_episode']:.3f} "
            f"| {row['parameters']:,} | {row['trained']} | {row['given']} |"
        )
    lines += [
        "",
        "What is retrieved, in the first and in the last ten episodes: the share of look-ups that "
        "ask the dataset; of its trajectories, the share of the training tasks nearest to the one "
        "that is played; and of all, the return that is missing to the maximum.",
        "",
        "| method | asks the dataset | nearest task | return gap |",
        "|---|---|---|---|",
    ]
    for row in comparison["methods"]:
        if found := row["retrieval"]:
            lines.append(
                f"| {row['method']} | {_ends(found, 'offline', '.0%')} "
                f"| {_ends(found, 'nearest_task', '.0%')} | {_ends(found, 'return_gap', '.2f')} |"
            )
    return "\n".join(lines) + "\n"


def _ends(found: Mapping[str, Sequence[float | None]], name: str, style: str) -> str:
    """A diagnostic in the first and the last episodes."""
    shown = ["none" if value is None else format(value, style) for value in found.get(name, ())]
    return ", ".join(shown)
