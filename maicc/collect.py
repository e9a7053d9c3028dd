"""Behaviour policies make the multi-task dataset: an expert that acts at random at some rate."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from functools import partial
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path

import numpy as np
from tqdm import tqdm

from maicc.config import CollectConfig
from maicc.dataset import concatenate, write_episodes
from maicc.envs import BatchEnv, TaskFamily, batch_env, get_family, importable
from maicc.files import whole_file
from maicc.types import Behaviour, EpisodeBatch, Task, UserError

_CALIBRATION_EPISODES = 16  # per task and trial rate
_CALIBRATION_TRIALS = 8


def play(
    family: TaskFamily,
    task: Task,
    rate: float,
    seeds: Sequence[Sequence[int]],
    *,
    explore: bool = False,
) -> EpisodeBatch:
    """One episode per seed, in lock step; each agent acts at random at `rate`, else as the expert,
    or with `explore` as the family's explorer, which starts every episode knowing nothing.

    Every episode's randomness comes from its own seed alone. `task` and `behaviour` are 0 in what
    is returned.
    """
    size = min(len(seeds), family.at_once or len(seeds))
    env = batch_env(family, [task] * size)
    try:
        parts = []
        for start in range(0, len(seeds), size):
            chunk = list(seeds[start : start + size])
            chunk += [chunk[-1]] * (size - len(chunk))  # the last one is filled up
            parts.append(_play(family, env, rate, chunk, explore))
    finally:
        env.close()
    played = concatenate(parts)
    return EpisodeBatch(**{f.name: getattr(played, f.name)[: len(seeds)] for f in fields(played)})


def _play(
    family: TaskFamily, env: BatchEnv, rate: float, seeds: Sequence[Sequence[int]], explore: bool
) -> EpisodeBatch:
    """One episode per environment of one task."""
    B, T, N = len(seeds), family.max_steps, family.spec.n_agents
    draws = np.stack([np.random.default_rng([*s, 0]).random((T, N, 2)) for s in seeds])
    expert_rngs = [np.random.default_rng([*s, 1]) for s in seeds]
    resets = [int(rng.integers(2**31)) for rng in expert_rngs]
    roster = env.rosters[0]  # one task, one team
    explorers = [[family.explorer() for _ in roster] for _ in range(B)] if explore else None
    now = env.reset(resets)
    episodes = empty_episodes(family, B)
    episodes.seed[:] = resets
    episodes.agent_mask[:] = env.agent_mask
    for t in range(T):
        running = ~now.done
        if not running.any():
            break
        episodes.observations[running, t] = now.observations[running]
        episodes.action_mask[running, t] = now.action_mask[running]
        actions = np.zeros((B, N), np.int64)
        for b in np.flatnonzero(running):
            if explorers is None:
                best = family.expert(env.envs[b], expert_rngs[b])
            else:
                seen = zip(
                    roster, explorers[b], now.observations[b], now.action_mask[b], strict=False
                )
                best = {agent: e.act(o, mask, expert_rngs[b]) for agent, e, o, mask in seen}
            for i, agent in enumerate(roster):
                legal = np.flatnonzero(now.action_mask[b, i])
                act_at_random = draws[b, t, i, 0] < rate
                choice = legal[int(draws[b, t, i, 1] * len(legal))]
                actions[b, i] = choice if act_at_random else best[agent]
        now = env.step(actions)
        episodes.actions[running, t] = actions[running]
        episodes.rewards[running, t] = now.rewards[running]
        episodes.individual_rewards[running, t] = now.individual_rewards[running]
        episodes.length[running] += 1
    at = np.arange(B)
    episodes.observations[at, episodes.length] = now.observations
    episodes.action_mask[at, episodes.length] = now.action_mask
    episodes.terminated[:] = now.terminated
    episodes.truncated[:] = now.truncated
    return episodes


def empty_episodes(family: TaskFamily, B: int) -> EpisodeBatch:
    s = family.spec
    T, N = s.max_steps, s.n_agents
    return EpisodeBatch(
        observations=np.zeros((B, T + 1, N, s.observation_size), np.float32),
        actions=np.zeros((B, T, N), np.int64),
        action_mask=np.zeros((B, T + 1, N, s.n_actions), bool),
        agent_mask=np.ones((B, N), bool),
        rewards=np.zeros((B, T), np.float32),
        individual_rewards=np.zeros((B, T, N), np.float32),
        length=np.zeros(B, np.int64),
        terminated=np.zeros(B, bool),
        truncated=np.zeros(B, bool),
        task=np.zeros(B, np.int64),
        behaviour=np.zeros(B, np.int64),
        seed=np.zeros(B, np.int64),
    )


def share_of_maximum(episodes: EpisodeBatch, family: TaskFamily) -> float:
    """Mean return as a share of the way from the family's lowest to its highest return."""
    low, high = family.return_bounds
    return float((episodes.rewards.sum(1).mean() - low) / (high - low))


def check_family(family: TaskFamily) -> None:
    """Plays an episode of random legal actions on the tasks, to refuse a broken contract early.

    Raises:
        UserError: agents, spaces, masks or rewards break the contract, or there are no tasks.
    """
    if not family.training or not family.held_out:
        raise UserError(f"family {family.name} needs at least one training and one held-out task")
    tasks = [*family.training_tasks, *family.held_out_tasks]
    rng = np.random.default_rng(0)
    # where environments are costly, one of each kind must do
    for some in [[tasks[0]], [tasks[-1]]] if family.at_once else [tasks]:
        env = batch_env(family, some)
        now = env.reset(range(len(some)))
        while not now.done.all():
            now = env.step((rng.random(now.action_mask.shape) * now.action_mask).argmax(-1))
        env.close()


def calibrate(
    family: TaskFamily, level: float, seed: int, progress: Callable[[int], object]
) -> float:
    """The random-action rate whose mean return over the training tasks is nearest to `level`.

    Bisection on the rate; the same seeds at every trial make the return a near-monotone function
    of it. A level below what acting at random reaches gets rate 1.
    """
    tasks = family.training_tasks

    def reached(rate: float) -> float:
        played = [
            play(family, task, rate, [(seed, 10, i, e) for e in range(_CALIBRATION_EPISODES)])
            for i, task in enumerate(tasks)
        ]
        progress(len(tasks) * _CALIBRATION_EPISODES)
        return share_of_maximum(concatenate(played), family)

    low, high = 0.0, 1.0
    if level >= reached(low):
        return low
    if level <= reached(high):
        return high
    for _ in range(_CALIBRATION_TRIALS):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(middle) > level else (low, middle)
    return (low + high) / 2


def check_settings(family: TaskFamily, config: CollectConfig) -> None:
    """Raises UserError for a level outside [0, 1], no episodes, or an explorer there is not."""
    if config.explorer and family.explorer is None:
        raise UserError(f"collect.explorer is set, but {family.name} has no scripted explorer")
    if config.workers < 0:
        raise UserError(f"collect.workers={config.workers} must be at least 0, for every core")
    if config.episodes < 1 or not config.levels:
        raise UserError("collect.episodes must be at least 1 and collect.levels must not be empty")
    for level in config.levels:
        if not 0 <= level <= 1:
            raise UserError(f"collect.levels has {level}, expected shares of the maximum in [0, 1]")


def collect(family: TaskFamily, path: str | Path, config: CollectConfig, seed: int) -> None:
    """Writes the dataset of `family` to `path`.

    Each task and level is a unit of its own seed, kept beside `path` as soon as it is played, so
    that an interrupted collection goes on where it stopped.

    Raises:
        UserError: a level outside [0, 1], or no episodes asked for.
    """
    check_settings(family, config)
    path = Path(path)
    plan = json.dumps([family.name, config.episodes, config.levels, config.explorer, seed])
    parts = path.with_name(f"{path.name}.{hashlib.sha256(plan.encode()).hexdigest()[:8]}.parts")
    parts.mkdir(parents=True, exist_ok=True)

    tasks, levels = family.training_tasks, config.levels
    most = len(levels) * (_CALIBRATION_TRIALS + 2) * len(tasks) * _CALIBRATION_EPISODES
    with tqdm(desc="calibrate", unit="episode", total=most, leave=False) as bar:
        rates: list[float | None] = [calibrate(family, level, seed, bar.update) for level in levels]
    if config.explorer:
        rates.append(None)
    units = [(task, behaviour) for task in range(len(tasks)) for behaviour in range(len(rates))]

    waiting = [unit for unit in units if not _part(parts, *unit).exists()]
    run = partial(_play_unit, family.name, config.episodes, seed, rates, parts)
    workers = min(config.workers or cpu_count() or 1, max(len(waiting), 1))
    if not importable(family):
        workers = 1  # known in this process only
    with tqdm(desc="collect", unit="episode", total=len(units) * config.episodes) as bar:
        bar.update((len(units) - len(waiting)) * config.episodes)
        if workers == 1:
            for unit in waiting:
                run(unit, family=family)
                bar.update(config.episodes)
        else:
            # spawn: a forked child would inherit locks of whatever threads the parent runs
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                try:
                    for _ in pool.map(run, waiting):
                        bar.update(config.episodes)
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise

    played = {unit: _read_part(_part(parts, *unit)) for unit in units}
    behaviours = []
    for i, rate in enumerate(rates):
        share = np.mean([share_of_maximum(played[t, i], family) for t in range(len(tasks))])
        reached = round(float(share), 4)
        if rate is None:
            behaviours.append(Behaviour("explorer", 0.0, reached, reached))
        else:
            behaviours.append(Behaviour("expert", round(rate, 6), levels[i], reached))
    write_episodes(
        path, concatenate([played[unit] for unit in units]), family.spec, tasks, behaviours
    )
    shutil.rmtree(parts)
    listed = ", ".join(f"{b.name} {b.reached:.0%} (aim {b.target:.0%})" for b in behaviours)
    print(f"{path}: {len(units) * config.episodes} episodes; mean return by behaviour: {listed}")


def _part(parts: Path, task: int, behaviour: int) -> Path:
    return parts / f"task{task}-behaviour{behaviour}.npz"


def _play_unit(
    name: str,
    n: int,
    seed: int,
    rates: list[float | None],
    parts: Path,
    unit: tuple[int, int],
    family: TaskFamily | None = None,
) -> None:
    family = family or get_family(name)
    task, behaviour = unit
    seeds = [(seed, 11, task, behaviour, episode) for episode in range(n)]
    rate = rates[behaviour]
    episodes = play(family, family.training_tasks[task], rate or 0.0, seeds, explore=rate is None)
    episodes.task[:] = task
    episodes.behaviour[:] = behaviour
    with whole_file(_part(parts, task, behaviour)) as temporary, open(temporary, "wb") as file:
        np.savez(file, **{f.name: getattr(episodes, f.name) for f in fields(EpisodeBatch)})


def _read_part(path: Path) -> EpisodeBatch:
    with np.load(path, allow_pickle=False) as part:
        return EpisodeBatch(**{f.name: part[f.name] for f in fields(EpisodeBatch)})
