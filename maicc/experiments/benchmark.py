"""The paper's protocol: one model per seed, each adapted on the same frozen tasks, in variants.

Finished units are never repeated: a benchmark goes on where it stopped and grows when variants or
seeds are added.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from maicc.baselines import FLAT
from maicc.config import RunConfig
from maicc.data.behaviour import play
from maicc.data.contract import check_family
from maicc.data.dataset import EpisodeFile, spec_with_bounds
from maicc.envs import TaskFamily, batch_env, get_family
from maicc.experiments.cluster import require_ray, run_units
from maicc.experiments.run import check
from maicc.experiments.units import Unit, run_stage, with_overrides
from maicc.files import read_json, write_json, write_text
from maicc.report import write_benchmark
from maicc.report.table import make_table, markdown
from maicc.types import Task

_BEHAVIOUR_EPISODES = 20  # of each task
_TASK_SEED = 2026  # the frozen list of tasks, shared by all variants and seeds


def frozen_tasks(family: TaskFamily, n: int, draw: str) -> list[Task]:
    """The tasks of every unit: held-out ones, or (`all`, as the paper draws) of all tasks."""
    if draw == "held_out":
        return family.draw_tasks(n, _TASK_SEED)
    tasks = [*family.training_tasks, *family.held_out_tasks]
    order = np.random.default_rng(_TASK_SEED).integers(len(tasks), size=n)
    return [tasks[i] for i in order]


def units(
    config: RunConfig,
    variants: Mapping[str, Mapping[str, Any]],
    seeds: Iterable[int],
    tasks: Sequence[Task],
    root: Path,
) -> list[Unit]:
    """Seeds outermost: after each seed the table is complete for one more seed."""
    return [
        Unit(name, with_overrides(config, {"seed": seed, **overrides}), tuple(tasks), root)
        for seed in seeds
        for name, overrides in variants.items()
    ]


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
) -> dict[str, Any]:
    """Runs every unit that is not finished and writes the table to `out`.

    Args:
        config: What every variant starts from.
        variants: By name, the options a variant sets.
        seeds: Models of each variant, from the configuration's seed on.
        tasks: Frozen tasks, the same for all units.
        out: Folder of models, results and the table.
        draw: `held_out` tasks, or among `all`.
        threads: Cores of a unit.
        cluster: None runs one unit after another in this process; `local` or the address of a Ray
            cluster runs them there.
        behaviours: Play the dataset's behaviour policies on the tasks as well.

    Returns:
        The table, as written to `benchmark.json`.
    """
    if cluster is not None:
        require_ray()
    family, out = get_family(config.family), out.resolve()
    frozen = frozen_tasks(family, tasks, draw)
    work = units(config, variants, range(config.seed, config.seed + seeds), frozen, out)
    check_family(family)
    for unit in work:
        check(unit.config, family)
    if family.explorer is not None:
        run_explorer(config, family, frozen, seeds, out)
    waiting = [unit for unit in work if not unit.result.exists()]
    if cluster is not None and waiting:
        run_units(waiting, cluster, threads, lambda: write_table(work, family, out))
    for unit in waiting:
        if unit.result.exists():
            continue
        print(f"{unit.variant}, seed {unit.config.seed}")
        for stage in unit.stages:
            run_stage(unit, stage, threads)
        write_table(work, family, out)  # what there is so far
    if behaviours:
        run_behaviours(work[0].files.episodes, family, frozen, out)
    return write_table(work, family, out)


def run_explorer(
    config: RunConfig, family: TaskFamily, tasks: Sequence[Task], seeds: int, out: Path
) -> None:
    """Plays the family's scripted explorer on the same tasks: the yardstick."""
    assert family.explorer is not None
    path, episodes = out / "results" / "explorer.json", config.adapt.episodes
    described = {"episodes": episodes, "tasks": [task.to_json() for task in tasks], "seeds": seeds}
    if path.exists() and read_json(path)["described"] == described:
        return
    runs = []
    for seed in range(seeds):
        for i, task in enumerate(tasks):
            rng = np.random.default_rng([seed, i, 70])
            env = batch_env(family, [task])
            team = [family.explorer() for _ in env.rosters[0]]
            returns = []
            for _ in range(episodes):
                now, total = env.reset([int(rng.integers(2**31))]), 0.0
                while not now.done[0]:
                    seen = zip(team, now.observations[0], now.action_mask[0], strict=False)
                    actions = np.zeros(env.agent_mask.shape, np.int64)
                    actions[0, : len(team)] = [agent.act(o, mask, rng) for agent, o, mask in seen]
                    now = env.step(actions)
                    total += float(now.rewards[0])
                for agent in team:
                    agent.end_episode()
                returns.append(round(total, 6))
            runs.append({"task": task.to_json(), "seed": seed, "returns": returns})
    write_json(path, {"described": described, "runs": runs})


def run_behaviours(dataset: Path, family: TaskFamily, tasks: Sequence[Task], out: Path) -> None:
    """Plays the dataset's behaviour policies on the same tasks: what the team could imitate."""
    path, episodes = out / "results" / "behaviours.json", EpisodeFile(dataset)
    described = {
        "dataset": episodes.fingerprint,
        "episodes": _BEHAVIOUR_EPISODES,
        "tasks": [task.to_json() for task in tasks],
    }
    if path.exists() and read_json(path)["described"] == described:
        return
    rows = {}
    for behaviour in episodes.behaviours:
        aim = f", aim {behaviour.target:.0%}" if behaviour.name == "expert" else ""
        name, runs = f"behaviour: {behaviour.name}{aim}", []
        for i, task in enumerate(tqdm(tasks, desc=name, unit="task")):
            played = play(
                family,
                task,
                behaviour.random_rate,
                [(i, 71, e) for e in range(_BEHAVIOUR_EPISODES)],
                behaviour.name,
            )
            returns = [round(float(r), 6) for r in played.returns]
            runs.append({"task": task.to_json(), "returns": returns})
        rows[name] = {"runs": runs}
    write_json(path, {"described": described, "rows": rows})


def write_table(work: Sequence[Unit], family: TaskFamily, out: Path) -> dict[str, Any]:
    """Gathers what is finished into benchmark.json, benchmark.md, curves.svg and report.html."""
    table, curves = gather(work, family, out)
    write_json(out / "benchmark.json", table)
    write_text(out / "benchmark.md", markdown(table))
    write_benchmark(out, table, curves, flat(work))
    return table


def flat(work: Sequence[Unit]) -> set[str]:
    """Variants that play alike in every episode; MAICC without context samples less and less."""
    return {unit.variant for unit in work if unit.config.method in FLAT}


def gather(
    work: Sequence[Unit], family: TaskFamily, out: Path
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The table of what is finished, and the returns (runs, episodes) of all that adapts."""
    results = {
        variant: [read_json(u.result) for u in work if u.variant == variant and u.result.exists()]
        for variant in dict.fromkeys(unit.variant for unit in work)
    }
    explored = out / "results" / "explorer.json"
    if explored.exists():
        results["scripted explorer"] = [read_json(explored)]
    behaviours = out / "results" / "behaviours.json"
    if behaviours.exists():
        found = read_json(behaviours)
        same = found["described"]["tasks"] == [task.to_json() for task in work[0].tasks]
        dataset = work[0].files.episodes
        made = EpisodeFile(dataset).fingerprint if dataset.exists() else None
        if same and made in (None, found["described"]["dataset"]):
            results |= {name: [row] for name, row in found["rows"].items()}
    seeds = sorted({unit.config.seed for unit in work})
    datasets = {unit.files.episodes for unit in work if unit.files.episodes.exists()}
    specs = [spec_with_bounds(family.spec, path) for path in datasets] or [family.spec]
    # where the data tell the bounds, each seed has its own: the table is on the widest
    bounds = (min(s.return_min for s in specs), max(s.return_max for s in specs))
    table, curves = make_table(family.name, seeds, work[0].tasks, results, bounds)
    return table, {name: c for name, c in curves.items() if not name.startswith("behaviour")}
