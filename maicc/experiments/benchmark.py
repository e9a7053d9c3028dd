"""Protocol of the paper: one model per seed and variant, each adapted on the same frozen tasks.

Finished units are never repeated: a benchmark goes on where it stopped and grows when variants or
seeds are added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maicc.config import RunConfig
from maicc.data.dataset import spec_with_bounds
from maicc.envs import get_family
from maicc.experiments.cluster import require_ray, run_units
from maicc.experiments.plan import Plan, plan
from maicc.experiments.yardsticks import (
    BEHAVIOUR,
    read_yardsticks,
    run_behaviours,
    run_explorers,
)
from maicc.files import write_json, write_text
from maicc.report import write_benchmark
from maicc.report.marl_eval import marl_eval
from maicc.report.table import FurtherTable, make_table, markdown


def benchmark(
    config: RunConfig,
    variants: Mapping[str, Mapping[str, Any]],
    *,
    seeds: int,
    tasks: int,
    out: Path,
    draw: str = "held_out",
    threads: int = 1,
    cluster: str | None = None,
    behaviours: bool = False,
    data: Path | None = None,
    write: Callable[[Plan], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Runs every unit that is not finished and writes the table to `out`.

    Args:
        config, variants, seeds, tasks, out, draw, data: Those of `plan`.
        threads, cluster, behaviours: Those of `finish`.
        write: Writes the result; `write_table` by default.

    Returns:
        What was written; the table, as in `benchmark.json`, by default.
    """
    work = plan(config, variants, seeds=seeds, tasks=tasks, out=out, draw=draw, data=data)
    finish(work, threads=threads, cluster=cluster, behaviours=behaviours)
    return (write or write_table)(work)


def finish(
    work: Plan, *, threads: int = 1, cluster: str | None = None, behaviours: bool = False
) -> None:
    """Runs every unit that is not finished, and the yardsticks.

    Args:
        work: The plan.
        threads: Cores of a unit.
        cluster: None runs one unit after another in this process; `local` or the address of a Ray
            cluster runs them there.
        behaviours: Whether the dataset's behaviour policies play the tasks as well.

    Raises:
        UserError: a cluster is asked for and Ray is missing.
    """
    if cluster is not None:
        require_ray()
    if work.family.explorer is not None:
        run_explorers(work)
    waiting = [unit for unit in work.units if not unit.result.exists()]
    if cluster is not None and waiting:
        run_units(waiting, cluster, threads, lambda: write_table(work))
    for unit in waiting:
        if unit.result.exists():
            continue
        print(f"{unit.variant}, seed {unit.config.seed}")
        for stage in unit.stages(threads):
            unit.run(stage, threads)
        write_table(work)  # of the units that are finished so far
    if behaviours:
        run_behaviours(work)


def write_table(work: Plan) -> dict[str, Any]:
    """Writes what is finished, as `write_files` does, and returns the table."""
    table, curves = gather(work)
    write_files(work, table, curves)
    return table


def write_files(
    work: Plan,
    table: Mapping[str, Any],
    curves: Mapping[str, np.ndarray],
    more: Sequence[FurtherTable] = (),
) -> None:
    """Writes benchmark.json, benchmark.md, marl_eval.json and the report's files.

    Args:
        table, curves: What `gather` returns.
        more: Further tables of the report.
    """
    write_json(work.out / "benchmark.json", table)
    results = {name: work.results(name) for name in work.variants}
    write_json(work.out / "marl_eval.json", marl_eval(work.family.name, results))
    write_text(work.out / "benchmark.md", markdown(table))
    write_benchmark(work.out, table, curves, work.flat, more)


def gather(work: Plan) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Makes the table of finished units.

    Returns:
        The table, and the returns (runs, episodes) by name, without behaviour policies.
    """
    results = {name: work.results(name) for name in work.variants} | read_yardsticks(work)
    bounds = work.family.return_bounds or _widest_bounds(work, results)
    table, curves = make_table(work.family.name, work.seeds, work.tasks, results, bounds)
    return table, {name: curve for name, curve in curves.items() if not name.startswith(BEHAVIOUR)}


def _widest_bounds(work: Plan, results: Mapping[str, Sequence[Any]]) -> tuple[float, float]:
    """Finds the lowest and the highest return of all datasets and results.

    Where a family states no bounds each dataset has its own, and teams may beat them.
    """
    known = [run["returns"] for of in results.values() for result in of for run in result["runs"]]
    families = {u.files.episodes: u.config.family for u in work.units if u.files.episodes.exists()}
    for path, name in families.items():
        known.append(spec_with_bounds(get_family(name).spec, path).bounds)
    return min(map(min, known)), max(map(max, known))
