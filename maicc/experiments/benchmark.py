"""Protocol of the paper: one model per seed and variant, each adapted on the same frozen tasks.

Finished units are never repeated: a benchmark goes on where it stopped and grows when variants or
seeds are added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from maicc.baselines import method_of
from maicc.config import CollectConfig, RunConfig
from maicc.data.behaviour import ANNEALED, play
from maicc.data.contract import check_family
from maicc.data.dataset import EpisodeFile, put_dataset, spec_with_bounds
from maicc.envs import TaskFamily, batch_env, get_family
from maicc.envs.tasks import REVEALED
from maicc.experiments.cluster import require_ray, run_units
from maicc.experiments.units import Unit, with_overrides
from maicc.experiments.validate import check, say_not_annealed
from maicc.files import read_json, write_json, write_text
from maicc.report import write_benchmark
from maicc.report.marl_eval import marl_eval
from maicc.report.table import make_table, markdown
from maicc.streams import Stream
from maicc.types import Task, UserError

RANDOM = "random.json"  # result of random actions, if they were played
EXPLORER = "explorer.json"  # result of the scripted explorer, if the family has one
_BEHAVIOUR_EPISODES = 20  # of each task
_TASK_SEED = 2026  # of the frozen list of tasks, which all variants and seeds share


def frozen_tasks(family: TaskFamily, n: int, draw: str) -> list[Task]:
    """Draws the tasks of every unit: `held_out` ones, or among `all` tasks, as the paper does."""
    if draw == "held_out":
        return family.draw_tasks(n, _TASK_SEED)
    tasks = [*family.training_tasks, *family.held_out_tasks]
    order = np.random.default_rng(_TASK_SEED).integers(len(tasks), size=n)
    return [tasks[i] for i in order]


@dataclass(frozen=True)
class Plan:
    """All units of a benchmark, and the folder of their table."""

    units: list[Unit]
    family: TaskFamily
    tasks: list[Task]
    out: Path

    @property
    def seeds(self) -> list[int]:
        """Seeds of the models."""
        return sorted({unit.config.seed for unit in self.units})

    @property
    def flat(self) -> set[str]:
        """Names of variants that do not adapt: they play alike in every episode."""
        return {u.variant for u in self.units if not method_of(u.config.method).adapts}

    @property
    def yardstick(self) -> Unit:
        """Unit whose dataset's behaviours are yardsticks: the first, but not of annealed levels."""
        return next((u for u in self.units if not u.config.collect.anneal), self.units[0])

    def results(self, variant: str) -> list[Any]:
        """Reads the results of a variant's finished units."""
        units = [unit for unit in self.units if unit.variant == variant]
        return [read_json(unit.result) for unit in units if unit.result.exists()]


def plan(
    config: RunConfig,
    variants: Mapping[str, Mapping[str, Any]],
    *,
    seeds: int,
    tasks: int,
    out: Path,
    draw: str = "held_out",
    data: Path | None = None,
) -> Plan:
    """Lists every unit, seed by seed, so that the table is complete after each seed.

    Args:
        config: Options that every variant starts from.
        variants: Options that each variant sets, by its name.
        seeds: Number of models of each variant; seeds count up from the configuration's.
        tasks: Number of frozen tasks, which are the same for all units.
        out: Folder of models, results and the table.
        draw: `held_out` tasks, or tasks among `all`.
        data: Dataset that every unit learns from, in place of collecting.

    Raises:
        UserError: an option or the dataset is wrong, or the family breaks its contract.
    """
    family, out = get_family(config.family), out.resolve()
    dataset = EpisodeFile(data) if data else None
    fingerprint = dataset.fingerprint if dataset else ""
    units = []
    for seed in range(config.seed, config.seed + seeds):
        for name, overrides in variants.items():
            own = with_overrides(config, {"seed": seed, **overrides})
            if data:
                _take_given(name, overrides, own, data, say=seed == config.seed)
            # of the same family, or of the one that tells its hidden part
            frozen = frozen_tasks(get_family(own.family), tasks, draw)
            units.append(Unit(name, own, tuple(frozen), out, fingerprint))
    told = f"{family.name}{REVEALED}"  # its dataset is made of the other one
    if dataset is not None:
        for name in {unit.config.family for unit in units} - {told}:
            dataset.require_family(get_family(name))
    check_family(family)
    for unit in units:
        check(unit.config, get_family(unit.config.family), dataset)
    if data:
        for path in {unit.files.episodes for unit in units if unit.config.family != told}:
            put_dataset(data, path)
    return Plan(units, family, frozen_tasks(family, tasks, draw), out)


def _take_given(
    name: str, overrides: Mapping[str, Any], own: RunConfig, data: Path, *, say: bool
) -> None:
    """Takes what is to be collected out of a variant's options, as its dataset is given.

    Args:
        own: All options of the variant, which are changed.
        say: Whether to tell of a method that asks for other data.

    Raises:
        UserError: the variant itself sets how to collect.
    """
    asked = [key for key in overrides if key.startswith("collect.")]
    if asked:
        raise UserError(
            f"variant {name} sets {asked[0]}, and --data takes the place of collecting: leave one "
            "of them out"
        )
    if own.collect.anneal and say:
        say_not_annealed(name, own, data)
    own.collect = CollectConfig()


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
        run_explorer(work)
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


def run_explorer(work: Plan) -> None:
    """Plays the family's scripted explorer on the same tasks, as a yardstick."""
    family, tasks, seeds = work.family, work.tasks, len(work.seeds)
    assert family.explorer is not None
    path, description = work.out / "results" / EXPLORER, {**played_on(work), "seeds": seeds}
    if yardstick(path, description):
        return
    runs = []
    for seed in range(seeds):
        for i, task in enumerate(tasks):
            rng = np.random.default_rng([seed, i, Stream.EXPLORER])
            env = batch_env(family, [task])
            team = [family.explorer() for _ in env.rosters[0]]
            returns: list[float] = []
            while len(returns) < description["episodes"]:
                step, total = env.reset([int(rng.integers(2**31))]), 0.0
                while not step.done[0]:
                    inputs = zip(team, step.observations[0], step.action_mask[0], strict=False)
                    actions = np.zeros(env.agent_mask.shape, np.int64)
                    actions[0, : len(team)] = [agent.act(o, mask, rng) for agent, o, mask in inputs]
                    step = env.step(actions)
                    total += float(step.rewards[0])
                for agent in team:
                    agent.end_episode()
                if not env.crashed[0]:
                    returns.append(round(total, 6))
            env.close()
            runs.append({"task": task.to_json(), "seed": seed, "returns": returns})
    write_json(path, {"described": description, "runs": runs})


def played_on(work: Plan) -> dict[str, Any]:
    """Describes what a yardstick is played on: the family, tasks, and the episodes of each."""
    return {
        "family": work.family.fingerprint,
        "episodes": work.units[0].config.adapt.episodes,
        "tasks": [task.to_json() for task in work.tasks],
    }


def yardstick(path: Path, description: Mapping[str, Any]) -> Any:
    """Reads a yardstick's result; None if it is not there, or was played on something else."""
    played = read_json(path) if path.exists() else None
    return played if played and played["described"] == description else None


def run_behaviours(work: Plan) -> None:
    """Plays the dataset's behaviour policies, which teams could imitate, on the same tasks."""
    family, tasks = work.family, work.tasks
    path = work.out / "results" / "behaviours.json"
    episodes = EpisodeFile(work.yardstick.files.episodes)
    description = {
        "dataset": episodes.fingerprint,
        "episodes": _BEHAVIOUR_EPISODES,
        "tasks": [task.to_json() for task in tasks],
    }
    if yardstick(path, description):
        return
    rows = {}
    for behaviour in episodes.behaviours:
        if behaviour.random_rate < 0:  # of imported episodes, whose policies are not known
            continue
        level = f", aim {behaviour.target:.0%}" if behaviour.name == "expert" else ""
        if behaviour.name == ANNEALED:
            level = f", {behaviour.random_rate:.1%} random"
        name, runs = f"behaviour: {behaviour.name}{level}", []
        for i, task in enumerate(tqdm(tasks, desc=name, unit="task")):
            played = play(
                family,
                task,
                behaviour.random_rate,
                [(i, Stream.BEHAVIOUR_YARDSTICK, e) for e in range(_BEHAVIOUR_EPISODES)],
                behaviour.name,
            )
            returns = [round(float(r), 6) for r in played.returns]
            runs.append({"task": task.to_json(), "returns": returns})
        rows[name] = {"runs": runs}
    write_json(path, {"described": description, "rows": rows})


def write_table(work: Plan) -> dict[str, Any]:
    """Writes what is finished, as `write_files` does, and returns the table."""
    table, curves = gather(work)
    write_files(work, table, curves)
    return table


def write_files(
    work: Plan,
    table: Mapping[str, Any],
    curves: Mapping[str, np.ndarray],
    methods: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Writes benchmark.json, benchmark.md, marl_eval.json and the report's files.

    Args:
        table, curves: What `gather` returns.
        methods: Rows that the report has of a comparison's methods.
    """
    write_json(work.out / "benchmark.json", table)
    results = {unit.variant: work.results(unit.variant) for unit in work.units}
    write_json(work.out / "marl_eval.json", marl_eval(work.family.name, results))
    write_text(work.out / "benchmark.md", markdown(table))
    write_benchmark(work.out, table, curves, work.flat, methods)


def gather(work: Plan) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Makes the table of finished units.

    Returns:
        The table, and the returns (runs, episodes) by name, without behaviour policies.
    """
    names = dict.fromkeys(unit.variant for unit in work.units)
    results = {name: work.results(name) for name in names} | _yardsticks(work)
    table, curves = make_table(work.family.name, work.seeds, work.tasks, results, _bounds(work))
    return table, {name: c for name, c in curves.items() if not name.startswith("behaviour")}


def _yardsticks(work: Plan) -> dict[str, list[Any]]:
    """Reads the results of the scripted explorer and of behaviour policies, if they were played."""
    rows: dict[str, list[Any]] = {}
    described = played_on(work)
    for name, file, description in (
        ("scripted explorer", EXPLORER, {**described, "seeds": len(work.seeds)}),
        ("random actions", RANDOM, described),
    ):
        if played := yardstick(work.out / "results" / file, description):
            rows[name] = [played]
    behaviours = work.out / "results" / "behaviours.json"
    if behaviours.exists():
        played = read_json(behaviours)
        dataset = work.yardstick.files.episodes
        fingerprint = EpisodeFile(dataset).fingerprint if dataset.exists() else None
        same_tasks = played["described"]["tasks"] == [task.to_json() for task in work.tasks]
        if same_tasks and fingerprint in (None, played["described"]["dataset"]):
            rows |= {name: [row] for name, row in played["rows"].items()}
    return rows


def _bounds(work: Plan) -> tuple[float, float]:
    """Finds the lowest and the highest return of the table.

    In families whose bounds the data tell, each seed has bounds of its own. The table takes the
    widest.
    """
    families = {u.files.episodes: u.config.family for u in work.units if u.files.episodes.exists()}
    specs = [spec_with_bounds(get_family(name).spec, path) for path, name in families.items()]
    specs = specs or [work.family.spec]
    lows, highs = zip(*(spec.bounds for spec in specs), strict=True)
    return min(lows), max(highs)
