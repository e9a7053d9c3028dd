"""The multi-task dataset: behaviour policies play every training task."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from maicc.config import CollectConfig
from maicc.data.behaviour import (
    behaviour_names,
    episode_count,
    episodes_each,
    plan_behaviours,
    play,
    play_trial,
    plays_at_levels,
    trial_episodes,
    trial_episodes_each,
    with_bounds,
)
from maicc.data.dataset import write_episodes
from maicc.data.episodes import FIELDS, EpisodeBatch, join
from maicc.data.processes import PlayEach, in_this_process, processes
from maicc.data.returns import share_of_maximum
from maicc.envs import TaskFamily
from maicc.files import locked, plain_number, read_arrays, read_json, write_arrays, write_json
from maicc.streams import Stream
from maicc.types import Behaviour, OutsideError, UserError


def check_settings(family: TaskFamily, config: CollectConfig) -> None:
    """Checks the options against the family.

    Raises:
        UserError: a level is outside [0, 1], no episodes are asked for, or an explorer or annealed
            levels are asked for that the family cannot have.
    """
    if config.explorer and family.explorer is None:
        raise UserError(f"collect.explorer is set, but {family.name} has no scripted explorer")
    if config.workers < 0:
        raise UserError(f"collect.workers={config.workers} must be at least 0, for every core")
    if config.episodes < 1 or not config.levels:
        raise UserError("collect.episodes must be at least 1 and collect.levels must not be empty")
    for level in config.levels:
        if not 0 <= level <= 1:
            raise UserError(f"collect.levels has {level}, expected shares of the maximum in [0, 1]")
    if config.anneal < 0 or config.anneal == 1:
        raise UserError(f"collect.anneal={config.anneal} must be at least 2, or 0 for levels")
    if config.anneal and not plays_at_levels(family):
        raise UserError(
            f"collect.anneal mixes random actions into an expert's, and {family.name} has no "
            "expert: give the family one, or set collect.anneal=0"
        )


def collect(family: TaskFamily, path: str | Path, config: CollectConfig, seed: int) -> None:
    """Writes the dataset of `family` to `path`.

    The episodes of one task and one behaviour are a unit with a seed of its own. A unit is kept
    beside `path` as soon as it is played, so that an interrupted collection goes on where it
    stopped. What is refused leaves no units: they were played by what is to be mended.

    Raises:
        UserError: `check_settings` refuses the options, an environment or a policy breaks the
            contract, or processes can't be started.
    """
    check_settings(family, config)
    path = Path(path)
    parts = _folder_of_units(family, path, config, seed)
    try:
        units = _played(family, config, seed, parts)
        _join(family, path, config, seed, units)
    except OutsideError:
        raise
    except UserError:
        drop_units(family, path, config, seed)
        raise


def collect_share(
    family: TaskFamily, path: Path, config: CollectConfig, seed: int, number: int, of: int
) -> None:
    """Plays a share of the units that `collect` joins; other processes may play other shares.

    Where one of them is refused, `drop_units` is to be called once all have ended.

    Args:
        number: Number of the share, from 0.
        of: Number of shares.
    """
    if path.exists():
        return
    parts = _folder_of_units(family, path, config, seed)
    units = _units(family, config, seed, parts, in_this_process(family))
    for unit in units.every()[number::of]:
        if not path.exists() and not _part(parts, *unit).exists():
            units.play(family, unit)


def drop_units(family: TaskFamily, path: Path, config: CollectConfig, seed: int) -> None:
    """Removes the units of a collection that is refused: what played them is to be mended."""
    shutil.rmtree(_folder_of_units(family, path, config, seed), ignore_errors=True)


def remove_units(path: Path) -> None:
    """Removes all units beside a dataset that is there, those of other options too."""
    for parts in path.parent.glob(f"{escape(path.name)}.*.parts"):
        shutil.rmtree(parts, ignore_errors=True)


def _folder_of_units(family: TaskFamily, path: Path, config: CollectConfig, seed: int) -> Path:
    """Makes the folder of the units, beside the dataset."""
    parts = path.with_name(f"{path.name}.{plan_of(family, config, seed)[:8]}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    return parts


def plan_of(family: TaskFamily, config: CollectConfig, seed: int) -> str:
    """SHA-256 of all that a collected dataset follows from, but for the environments' code."""
    players = behaviour_names(family, config)
    origin = [family.name, family.fingerprint, config.episodes, config.levels, players, seed]
    if config.anneal:
        origin.append(config.anneal)
    plan = json.dumps([*origin, list(FIELDS)], default=plain_number)
    return hashlib.sha256(plan.encode()).hexdigest()


class _Units(NamedTuple):
    """Units of a collection: the episodes of one task and one behaviour each."""

    bounded: TaskFamily  # the family with bounds
    behaviours: list[Behaviour]
    rosters: list[list[str]]
    counts: list[int]  # episodes of each behaviour in a task
    parts: Path  # folder of the units that have been played
    play: Callable[..., None]  # plays a unit, given the family and the unit

    def every(self) -> list[tuple[int, int]]:
        """All units, as numbers of a task and of a behaviour."""
        tasks, behaviours = len(self.bounded.training), len(self.behaviours)
        return [(task, behaviour) for task in range(tasks) for behaviour in range(behaviours)]

    def waiting(self) -> list[tuple[int, int]]:
        """Units that have not been played."""
        return [unit for unit in self.every() if not _part(self.parts, *unit).exists()]


def _units(
    family: TaskFamily, config: CollectConfig, seed: int, parts: Path, play_each: PlayEach
) -> _Units:
    """Plans the units, or reads the plan in their folder."""
    with locked(parts / "plan.json"):
        planned = _planned(family, config, seed, parts / "plan.json", play_each)
    bounded, behaviours, rosters = planned
    counts = [episodes_each(behaviour.name, config) for behaviour in behaviours]
    play = partial(_play_unit, counts=counts, seed=seed, behaviours=behaviours, parts=parts)
    return _Units(bounded, behaviours, rosters, counts, parts, play)


def _played(family: TaskFamily, config: CollectConfig, seed: int, parts: Path) -> _Units:
    """Plays the units that are not in the folder `parts` yet."""
    with processes(family, config.workers) as play_each:
        units = _units(family, config, seed, parts, play_each)
        waiting, counts = units.waiting(), units.counts
        total = episode_count(family, config)
        with tqdm(desc="collect", unit="episode", total=total) as bar:
            bar.update(total - sum(counts[behaviour] for _, behaviour in waiting))
            for unit, _ in zip(waiting, play_each(units.play, waiting), strict=True):
                bar.update(counts[unit[1]])
    return units


def _join(family: TaskFamily, path: Path, config: CollectConfig, seed: int, units: _Units) -> None:
    """Writes the dataset, and removes the units that it is made of."""
    bounded, behaviours, total = units.bounded, units.behaviours, episode_count(family, config)
    played = (_read_unit(family, units, unit) for unit in units.every())
    episodes = join(played, total, path.parent)
    if family.return_bounds is None:
        bounded = with_bounds(family, episodes.returns)
    behaviours = [
        _reached(behaviour, episodes, i, bounded) for i, behaviour in enumerate(behaviours)
    ]
    plan = plan_of(family, config, seed)
    write_episodes(
        path, episodes, bounded.spec, family.training_tasks, behaviours, plan=plan,
        rosters=units.rosters,
    )  # fmt: skip
    remove_units(path)
    by_behaviour = ", ".join(f"{b.name} {b.reached:.0%} (aim {b.target:.0%})" for b in behaviours)
    print(f"{path}: {total} episodes; mean return by behaviour: {by_behaviour}")


def _planned(
    family: TaskFamily, config: CollectConfig, seed: int, path: Path, play_each: PlayEach
) -> tuple[TaskFamily, list[Behaviour], list[list[str]]]:
    """Calls `plan_behaviours`, and keeps its result at `path` so that trials are played once.

    Returns:
        The family with bounds, the behaviours, and the rosters.
    """
    if (plan := _kept_plan(path)) is not None:
        bounds = plan["bounds"] and tuple(plan["bounds"])
        rosters = plan.get("rosters", [])
        family.require_rosters(rosters)
        bounded = replace(family, return_bounds=bounds)
        return bounded, [Behaviour(**b) for b in plan["behaviours"]], rosters
    rosters = family.rosters()
    tasks, total = range(len(family.training)), trial_episodes(family, config)
    with tqdm(desc="calibrate", unit="episode", total=total, leave=False) as bar:

        def trial(rate: float) -> np.ndarray:
            returns = []
            for of_task in play_each(partial(play_trial, rate=rate, seed=seed), tasks):
                returns.append(of_task)
                bar.update(trial_episodes_each(family))
            return np.concatenate(returns)

        bounded, behaviours = plan_behaviours(family, config, trial)
    plan = {
        "bounds": bounded.return_bounds,
        "behaviours": [asdict(behaviour) for behaviour in behaviours],
        "rosters": rosters,
    }
    write_json(path, plan)
    return bounded, behaviours, rosters


def _kept_plan(path: Path) -> dict[str, Any] | None:
    """Reads a plan; None if there is none, or it is damaged: what it holds is found again."""
    try:
        return read_json(path) if path.exists() else None
    except UserError:
        print(f"{path} is damaged, and its trials are played again")
        return None


def _reached(
    behaviour: Behaviour, episodes: EpisodeBatch, number: int, family: TaskFamily
) -> Behaviour:
    """Fills in the share of the maximum that a behaviour reached.

    A behaviour that was given no level gets that share as its target as well.
    """
    assert family.return_bounds is not None
    of_behaviour = episodes.returns[episodes.behaviour == number]
    reached = round(share_of_maximum(of_behaviour, family.return_bounds), 4)
    target = behaviour.target if behaviour.name == "expert" else reached
    return replace(behaviour, target=target, reached=reached)


def _read_unit(family: TaskFamily, units: _Units, unit: tuple[int, int]) -> dict[str, np.ndarray]:
    """Reads the episodes of a unit, which is played again if its file is damaged."""
    path = _part(units.parts, *unit)
    try:
        return read_arrays(path)
    except UserError:
        print(f"{path} is damaged, and its episodes are played again")
        units.play(family, unit)
        return read_arrays(path)


def _part(parts: Path, task: int, behaviour: int) -> Path:
    return parts / f"task{task}-behaviour{behaviour}.npz"


def _play_unit(
    family: TaskFamily,
    unit: tuple[int, int],
    *,
    counts: list[int],
    seed: int,
    behaviours: list[Behaviour],
    parts: Path,
) -> None:
    """Plays the episodes of one task and one behaviour, and writes them to a file in `parts`.

    Args:
        counts: Number of episodes of each behaviour.
    """
    task, behaviour = unit
    played = range(counts[behaviour])
    seeds = [(seed, Stream.COLLECTION, task, behaviour, episode) for episode in played]
    rate, name = behaviours[behaviour].random_rate, behaviours[behaviour].name
    episodes = play(family, family.training_tasks[task], rate, seeds, name)
    episodes.task[:] = task
    episodes.behaviour[:] = behaviour
    arrays = {name: getattr(episodes, name) for name in FIELDS}
    write_arrays(_part(parts, task, behaviour), arrays)
