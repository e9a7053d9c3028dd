"""Plan of a benchmark: a unit for each seed and variant, all on the same frozen tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maicc.baselines import method_of
from maicc.config import OWN_RUNS, CollectConfig, RunConfig
from maicc.data.contract import check_family
from maicc.data.dataset import EpisodeFile, put_dataset
from maicc.envs import TaskFamily, get_family
from maicc.envs.tasks import REVEALED
from maicc.experiments.units import Unit, with_overrides
from maicc.experiments.validate import check, say_not_annealed
from maicc.files import read_json
from maicc.types import Task, UserError

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
    def variants(self) -> list[str]:
        """Names of the variants, in their order."""
        return list(dict.fromkeys(unit.variant for unit in self.units))

    @property
    def flat(self) -> set[str]:
        """Names of variants that do not adapt: they play alike in every episode."""
        return {u.variant for u in self.units if not method_of(u.config.method).adapts}

    @property
    def behaviours_unit(self) -> Unit:
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
    told = f"{family.name}{REVEALED}"  # its dataset is made of the other one
    dataset = EpisodeFile(data) if data else None
    fingerprint = dataset.fingerprint if dataset else ""
    units = []
    for name, overrides in variants.items():
        if taken := [option for option in ("seed", *OWN_RUNS) if option in overrides]:
            raise UserError(
                f"variant {name} sets {taken[0]}, which is the same for all variants: leave it out"
            )
        try:
            own = with_overrides(config, overrides)
        except UserError as error:
            raise UserError(f"variant {name}: {error}") from None
        if own.family not in (family.name, told):
            raise UserError(
                f"variant {name} sets family={own.family}, and all play {family.name}: leave it out"
            )
    if dataset is not None:
        dataset.require_family(family)
    check_family(family)
    for seed in range(config.seed, config.seed + seeds):
        for name, overrides in variants.items():
            own = with_overrides(config, {"seed": seed, **overrides})
            if data:
                _take_given(name, overrides, own, data, say=seed == config.seed)
            frozen = frozen_tasks(get_family(own.family), tasks, draw)
            units.append(Unit(name, own, tuple(frozen), out, fingerprint))
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
