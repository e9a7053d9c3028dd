"""Adaptation: T episodes on unseen tasks, many runs in lock step, parameters frozen."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from maicc.config import AdaptConfig
from maicc.data.dataset import EpisodeFile
from maicc.envs import BatchEnv, TaskFamily, batch_env, get_family
from maicc.evaluation.stats import summary
from maicc.evaluation.trained import TrainedModels, TrainedRival, load_folder
from maicc.files import ModelFiles, whole_file, write_json
from maicc.teams.lockstep import LockStepTeam
from maicc.teams.lookups import DIAGNOSTICS, as_json, nearest_tasks
from maicc.types import Task, UserError

SCHEMA = 1
_SAVE_EVERY_SECONDS = 20.0


def play_episode(team: LockStepTeam, env: BatchEnv, seeds: Sequence[int]) -> np.ndarray:
    """One adaptation episode of every run: team returns (R,).

    Played again where an environment broke off; twice running is an error of the environment's.
    """
    now = env.reset(seeds)
    returns = np.zeros(len(env.envs))
    while not now.done.all():
        actions = team.act(now.observations, now.action_mask, now.alive)
        now = env.step(actions)
        if env.crashed.any():
            team.abandon()
            return play_episode(team, env, seeds)
        team.observe(actions, now.rewards, now.done)
        returns += now.rewards
    return returns


def adapt(
    models: TrainedModels | TrainedRival,
    family: TaskFamily,
    tasks: Sequence[Task],
    config: AdaptConfig,
    seed: int,
    kept: Path | None = None,
    label: str = "adapt",
) -> dict[str, Any]:
    """Runs one team per task and returns the result as plain JSON.

    Args:
        models: What `maicc run` trained, for this family.
        tasks: One per run.
        seed: Run i plays with seed `seed * 1000 + i`.
        kept: Where an interrupted adaptation is kept from time to time, to go on from.

    Raises:
        UserError: no episodes or no tasks.
    """
    if config.episodes < 1 or not tasks:
        raise UserError("adapt.episodes and adapt.runs must be at least 1")
    seeds = [seed * 1000 + i for i in range(len(tasks))]
    env = batch_env(family, tasks)
    team = models.team(seeds, config.memory, config.episodes, env.agent_mask, config.explore)
    returns = np.zeros((len(tasks), config.episodes))
    near = nearest_tasks(family, tasks, models.tasks)
    low, high = models.spec.bounds
    retrieval = np.full((len(DIAGNOSTICS), config.episodes), np.nan)
    follows = config.identity(models.method)
    plan = [models.content, follows, seed, [task.to_json() for task in tasks]]
    identity = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()
    if kept is not None and kept.exists():
        with np.load(kept, allow_pickle=False) as state:
            if str(state["identity"]) != identity:
                raise UserError(
                    f"{kept} keeps an interrupted adaptation with other models or settings; remove "
                    "it, or go on with the settings it was begun with"
                )
            team.load_state(state)
            returns[:, : team.episode] = state["returns"]
            retrieval[:, : team.episode] = state["retrieval"]

    finished = team.episode

    def keep() -> None:
        if config.memory.max_episodes and team.episode != finished:
            return  # interrupted as it was stored: what was kept before stands
        if kept is not None and finished:
            done = {
                "identity": identity,
                "returns": returns[:, :finished],
                "retrieval": retrieval[:, :finished],
            }
            with whole_file(kept) as temporary, open(temporary, "wb") as file:
                np.savez(file, **team.state(finished), **done)

    last_kept = time.monotonic()
    with tqdm(desc=label, unit="episode", total=config.episodes, initial=team.episode) as bar:
        try:
            for episode in range(team.episode, config.episodes):
                resets = [np.random.default_rng([s, 50, episode]).integers(2**31) for s in seeds]
                returns[:, episode] = play_episode(team, env, resets)
                if team.lookups is not None:
                    retrieval[:, episode] = team.lookups.diagnostics(near, high - low)
                finished = episode + 1
                bar.update()
                bar.set_postfix({"return": f"{returns[:, episode].mean():.2f}"}, refresh=False)
                if time.monotonic() - last_kept > _SAVE_EVERY_SECONDS:
                    keep()
                    last_kept = time.monotonic()
        except KeyboardInterrupt:
            keep()
            raise
        finally:
            env.close()
    held_out = {json.dumps(task.to_json()) for task in family.held_out_tasks}
    return {
        "schema": SCHEMA,
        "family": family.name,
        "episodes": config.episodes,
        "runs": [
            {
                "task": task.to_json(),
                "held_out": json.dumps(task.to_json()) in held_out,
                "seed": s,
                "returns": [round(float(r), 6) for r in run],
            }
            for task, s, run in zip(tasks, seeds, returns, strict=True)
        ],
        "summary": {name: round(value, 6) for name, value in summary(returns).items()},
        "retrieval": as_json(retrieval),
    }


def adapt_folder(
    folder: Path,
    config: AdaptConfig,
    seed: int,
    out: Path,
    device: str = "auto",
    *,
    held_out: bool = True,
    seconds: Mapping[str, float] | None = None,
) -> None:
    """Adapts teams of the models in `folder` and writes the result to `out`.

    Interrupted, the same call goes on where it stopped.
    """
    files = ModelFiles.in_folder(folder)
    family = get_family(EpisodeFile(files.episodes).spec.family)
    models = load_folder(folder, family.spec, device)
    start = time.monotonic()
    n = config.runs if held_out else config.training_runs
    tasks = family.draw_tasks(n, seed, held_out=held_out)
    kept = out.with_suffix(".part.npz")
    label = "adapt" if held_out else "adapt (training tasks)"
    result = adapt(models, family, tasks, config, seed, kept, label)
    before = (seconds or {}).get(label, 0.0)  # of calls that were interrupted
    taken = {label: round(before + time.monotonic() - start, 2)}
    write_json(out, {**result, "seconds": {**(seconds or {}), **taken}})
    kept.unlink(missing_ok=True)
    s = result["summary"]
    print(
        f"{out}: {n} runs, mean return {s['first3']:.2f} in the first 3 episodes, "
        f"{s['last10']:.2f} +- {s['ci95']:.2f} in the last 10"
    )
