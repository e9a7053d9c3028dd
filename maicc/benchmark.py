"""The paper's protocol: one model per seed, each adapted on the same frozen tasks, in variants.

Units are independent: a trained model follows from its configuration and seed, a result from its
model, variant and tasks. Finished units are found by a hash of what they follow from and never
repeated, so that a benchmark goes on where it stopped and grows when variants are added.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maicc.collect import collect
from maicc.config import RunConfig, check_choices
from maicc.envs import BatchEnv, TaskFamily, get_family
from maicc.files import ModelFiles, read_json, write_json, write_text
from maicc.run import check, fit_decision, fit_embedding
from maicc.stats import bootstrap_ci95, episodes_to, iqm, mean_ci95, regret
from maicc.types import Task, UserError

SCHEMA = 1
_TASK_SEED = 2026  # the frozen list of tasks, shared by all variants and seeds


@dataclass(frozen=True)
class Unit:
    """One variant with one seed."""

    variant: str
    config: RunConfig
    tasks: tuple[Task, ...]
    root: Path

    @property
    def files(self) -> ModelFiles:
        """Where the models are: by the content of all they follow from."""
        c = self.config.identity()
        family, seed = c["family"], c["seed"]
        data = _hash(family, seed, c["collect"])
        embedding = _hash(data, c["embedding"])
        decision = _hash(embedding, c["decision"])
        models = self.root / "models"
        return ModelFiles(
            models / f"{data}.h5",
            models / embedding / "embedding.ckpt",
            models / embedding / f"decision-{decision}.ckpt",
        )

    @property
    def result(self) -> Path:
        tasks = [task.to_json() for task in self.tasks]
        name = _hash(str(self.files.decision.name), asdict(self.config.adapt), tasks)
        return self.root / "results" / self.variant / f"seed{self.config.seed}-{name}.json"


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def with_overrides(config: RunConfig, overrides: Mapping[str, Any]) -> RunConfig:
    """A copy with dotted keys replaced.

    Raises:
        UserError: there is no such key, or the value is of another type.
    """
    config = copy.deepcopy(config)
    for key, value in overrides.items():
        *path, last = key.split(".")
        part: Any = config
        for name in path:
            part = getattr(part, name, None)
        if not is_dataclass(part) or not hasattr(part, last):
            raise UserError(f"a variant sets {key}, which is no option of a run")
        old = getattr(part, last)
        number = isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool)
        if type(old) is not type(value) and not number:
            raise UserError(
                f"a variant sets {key} to {value!r}, expected {type(old).__name__} like {old!r}"
            )
        setattr(part, last, float(value) if number else value)
    check_choices(config)
    return config


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


def run_unit(unit: Unit) -> None:
    """Trains what the unit's models lack, adapts, and leaves the result; skips what is there."""
    from maicc.adapt import adapt
    from maicc.team import TrainedModels

    if unit.result.exists():
        return
    config, files = unit.config, unit.files
    family = get_family(config.family)
    print(f"{unit.variant}, seed {config.seed}")
    if not files.episodes.exists():
        collect(family, files.episodes, config.collect, config.seed)
    if not files.embedding.exists():
        fit_embedding(config, files)
    if not files.decision.exists():
        fit_decision(config, files)
    models = TrainedModels(files, family.spec, config.device, config.decision.retrieval.index)
    start = time.monotonic()
    kept = unit.result.with_suffix(".part.npz")
    result = adapt(models, family, unit.tasks, config.adapt, config.seed, kept, unit.variant)
    taken = time.monotonic() - start
    write_json(unit.result, {**result, "variant": unit.variant, "adapt_seconds": round(taken, 2)})
    kept.unlink(missing_ok=True)


def benchmark(
    config: RunConfig,
    variants: Mapping[str, Mapping[str, Any]],
    *,
    seeds: int,
    tasks: int,
    out: Path,
    draw: str = "held_out",
) -> dict[str, Any]:
    """Runs every unit that is not finished and writes the table to `out`.

    Returns:
        The table, as written to `benchmark.json`.
    """
    family = get_family(config.family)
    frozen = frozen_tasks(family, tasks, draw)
    work = units(config, variants, range(config.seed, config.seed + seeds), frozen, out)
    for unit in work:
        check(unit.config, family)
    if family.explorer is not None:
        run_explorer(config, family, frozen, seeds, out)
    for unit in work:
        if not unit.result.exists():
            run_unit(unit)
            write_table(work, family, out)  # what there is so far
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
            env = BatchEnv([family.make_env(task)], family.team_reward, family.max_steps)
            team = [family.explorer() for _ in env.agents]
            returns = []
            for _ in range(episodes):
                now, total = env.reset([int(rng.integers(2**31))]), 0.0
                while not now.done[0]:
                    seen = zip(team, now.observations[0], now.action_mask[0], strict=True)
                    actions = [agent.act(o, mask, rng) for agent, o, mask in seen]
                    now = env.step(np.array([actions]))
                    total += float(now.rewards[0])
                for agent in team:
                    agent.end_episode()
                returns.append(round(total, 6))
            runs.append({"task": task.to_json(), "seed": seed, "returns": returns})
    write_json(path, {"described": described, "runs": runs})


def write_table(work: Sequence[Unit], family: TaskFamily, out: Path) -> dict[str, Any]:
    """Gathers the results of finished units into benchmark.json, benchmark.md and report.html."""
    high = family.spec.return_max
    rows: list[dict[str, Any]] = []
    curves: dict[str, np.ndarray] = {}
    for variant in dict.fromkeys(unit.variant for unit in work):
        mine = [read_json(u.result) for u in work if u.variant == variant and u.result.exists()]
        if not mine:
            continue
        returns = np.array([run["returns"] for result in mine for run in result["runs"]])
        strata = np.array([run["task"]["name"] for result in mine for run in result["runs"]])
        rows.append(
            {
                "variant": variant,
                "seeds": len(mine),
                **table_row(returns, strata, high),
                "seconds_per_episode": round(
                    sum(r["adapt_seconds"] for r in mine) / returns.size, 5
                ),
            }
        )
        curves[variant] = returns
    explored = out / "results" / "explorer.json"
    if explored.exists():
        result = read_json(explored)
        returns = np.array([run["returns"] for run in result["runs"]])
        strata = np.array([run["task"]["name"] for run in result["runs"]])
        rows.append({"variant": "scripted explorer", **table_row(returns, strata, high)})
        curves["scripted explorer"] = returns
    seeds = sorted({unit.config.seed for unit in work})
    table = {
        "schema": SCHEMA,
        "family": family.name,
        "return_max": high,
        "seeds": seeds,
        "tasks": [task.name for task in work[0].tasks],
        "rows": rows,
    }
    write_json(out / "benchmark.json", table)
    write_text(out / "benchmark.md", markdown(table))
    from maicc.report import write_benchmark

    write_benchmark(out, table, curves)
    return table


def table_row(returns: np.ndarray, strata: np.ndarray, return_max: float) -> dict[str, Any]:
    """The statistics of one variant; returns (runs, episodes), strata (runs,) the task."""
    last, last_ci = mean_ci95(returns[:, -1])
    last10 = returns[:, -10:].mean(1)
    low, high = bootstrap_ci95(last10, strata)
    curve = returns.mean(0)
    return {
        "runs": len(returns),
        "episodes": returns.shape[1],
        "last": round(last, 4),
        "last_ci95": round(last_ci, 4),
        "first10": round(float(returns[:, :10].mean()), 4),
        "last10": round(float(last10.mean()), 4),
        "last10_ci95": round(mean_ci95(last10)[1], 4),
        "last10_iqm": round(iqm(last10), 4),
        "last10_iqm_ci95": [round(low, 4), round(high, 4)],
        "regret_per_episode": round(float(regret(returns, return_max).mean() / len(curve)), 4),
        "episodes_to_85": episodes_to(curve, 0.85 * return_max),
    }


def markdown(table: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    lines = [
        f"{table['family']}, seeds {table['seeds']}, {len(table['tasks'])} tasks each. The mean of "
        "the last episode with its normal 95 % interval over runs; the interquartile mean of the "
        "last ten with a 95 % bootstrap interval stratified by task; regret per episode; the first "
        f"episode whose 5-episode mean reaches 85 % of the maximum {table['return_max']:g}.",
        "",
        "| variant | runs | episodes | last | first 10 | last 10 | last 10, IQM | regret "
        "| to 85 % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in table["rows"]:
        low, high = row["last10_iqm_ci95"]
        lines.append(
            f"| {row['variant']} | {row['runs']} | {row['episodes']} "
            f"| {row['last']:.2f} ± {row['last_ci95']:.2f} | {row['first10']:.2f} "
            f"| {row['last10']:.2f} ± {row['last10_ci95']:.2f} "
            f"| {row['last10_iqm']:.2f} [{low:.2f}, {high:.2f}] "
            f"| {row['regret_per_episode']:.2f} | {row['episodes_to_85'] or 'never'} |"
        )
    return "\n".join(lines) + "\n"
