"""MAICC and its rivals in one table: the same dataset, frozen tasks, steps and statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maicc.baselines import GIVEN
from maicc.config import RunConfig
from maicc.envs import get_family
from maicc.evaluation.stats import probability_of_improvement
from maicc.experiments.benchmark import benchmark, flat, frozen_tasks, gather, units
from maicc.experiments.run import HAVE_EMBEDDING
from maicc.experiments.units import with_overrides
from maicc.files import read_json, write_json, write_text
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
    **options: Any,
) -> dict[str, Any]:
    """Trains and adapts every method that is not finished and writes the comparison to `out`.

    Args:
        config: What every method starts from.
        methods: By name, the options a method sets.
        seeds, tasks, out, options: Those of `benchmark`.

    Returns:
        The comparison, as written to `compare.json`.
    """
    benchmark(config, methods, seeds=seeds, tasks=tasks, out=out, **options)
    family, out = get_family(config.family), out.resolve()
    frozen = frozen_tasks(family, tasks, options.get("draw", "held_out"))
    work = units(config, methods, range(config.seed, config.seed + seeds), frozen, out)
    table, curves = gather(work, family, out)
    names = np.array([task.name for task in frozen] * seeds)
    last10 = {name: curves[name][:, -10:].mean(1) for name in methods}
    rows = []
    for row in table["rows"]:
        name = row["variant"]
        if name not in methods:
            continue
        results = [read_json(unit.result) for unit in work if unit.variant == name]
        rivals = [other for other in methods if other != name]
        best = max(rivals, key=lambda other: last10[other].mean(), default=None)
        runs_episodes = len(results) * tasks * row["episodes"]
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
                **given(with_overrides(config, methods[name])),
            }
        )
    comparison = {"table": table, "methods": rows}
    write_json(out / "compare.json", comparison)
    write_text(out / "compare.md", comparison_markdown(comparison))
    write_benchmark(out, table, curves, flat(work), rows)
    return comparison


def given(config: RunConfig) -> dict[str, str]:
    """What a method is trained on, besides observations, actions and outcomes."""
    d, e = config.decision, config.embedding
    steps = f"{d.steps} x {d.batch_size} trajectories"
    if config.method == "maicc" and d.model.k == 0:  # the embedding has no part in it
        return {"trained": steps, "given": "returns"}
    if config.method == "maicc":
        steps = f"{e.steps} x {e.batch_size} episodes, {steps}"
    elif config.method in HAVE_EMBEDDING:
        steps = f"{e.steps} + {steps}"
    told = GIVEN[config.method]
    if config.method == "maicc" and d.model.labels == "expert":
        told += "; the best behaviour policy's actions"
    if config.method == "maicc" and e.model.teacher:
        told += "; all agents' views, for the teacher"
    return {"trained": steps, "given": told}


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
