"""Yardsticks of a benchmark: policies without a model, which play its tasks beside the teams."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from maicc.data.behaviour import ANNEALED, play
from maicc.data.dataset import EpisodeFile
from maicc.data.returns import solved
from maicc.envs import batch_env
from maicc.experiments.plan import Plan
from maicc.files import read_json, write_json
from maicc.memory.stores import SAME
from maicc.streams import Stream

RANDOM = "random.json"
EXPLORER, EXPLORER_REPLAY = "explorer.json", "explorer_replay.json"
BEHAVIOUR = "behaviour: "  # how names of behaviour policies begin in a table
_BEHAVIOUR_EPISODES = 20  # of each task


def run_explorers(work: Plan) -> None:
    """Plays the family's scripted explorer on the same tasks, as it is and with a replay.

    With a replay it repeats the latest episode that reached the maximum, where it sees the same; a
    team repeats one of the latest 32 (`adapt.memory.replay`). This is left out where the family
    does not state its highest return.
    """
    _run_explorer(work, EXPLORER, None)
    if work.family.return_bounds is not None:
        _run_explorer(work, EXPLORER_REPLAY, work.family.return_bounds)


def _run_explorer(work: Plan, name: str, replay: tuple[float, float] | None) -> None:
    """Plays an explorer on every task with every seed; it replays if it is given the bounds."""
    path, described = work.out / "results" / name, _explored(work)
    if read_if_same(path, described):
        return
    again = [(seed, i) for seed in work.seeds for i in range(len(work.tasks))]
    runs = [
        {
            "task": work.tasks[i].to_json(),
            "seed": seed,
            "returns": _explore(work, i, seed, replay),
        }
        for seed, i in tqdm(again, desc=path.stem, unit="run")
    ]
    write_json(path, {"described": described, "runs": runs})


def _explore(work: Plan, i: int, seed: int, replay: tuple[float, float] | None) -> list[float]:
    """Plays one run of a team of explorers on a task, and tells the returns of its episodes."""
    family, episodes = work.family, work.units[0].config.adapt.episodes
    assert family.explorer is not None
    rng = np.random.default_rng([seed, i, Stream.EXPLORER])
    env = batch_env(family, [work.tasks[i]])
    team = [_Replaying(family.explorer()) for _ in env.rosters[0]]
    returns: list[float] = []
    while len(returns) < episodes:
        step, total = env.reset([int(rng.integers(2**31))]), 0.0
        while not step.done[0]:
            inputs = zip(team, step.observations[0], step.action_mask[0], strict=False)
            actions = np.zeros(env.agent_mask.shape, np.int64)
            actions[0, : len(team)] = [agent.act(o, mask, rng) for agent, o, mask in inputs]
            step = env.step(actions)
            total += float(step.rewards[0])
        finished = not env.crashed[0]
        for agent in team:
            agent.end_episode(keep=replay is not None and finished and solved(total, replay))
        if finished:
            returns.append(round(total, 6))
    env.close()
    return returns


class _Replaying:
    """Policy of an agent that repeats its latest kept episode where it sees the same."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self._now: list[tuple[np.ndarray, int]] = []  # what was seen and done at each step
        self._kept: list[tuple[np.ndarray, int]] = []

    def act(
        self, observation: np.ndarray, action_mask: np.ndarray, rng: np.random.Generator
    ) -> int:
        """Chooses a legal action: the kept episode's, or the policy's."""
        action = self.policy.act(observation, action_mask, rng)
        if len(self._now) < len(self._kept):
            seen, done = self._kept[len(self._now)]
            if action_mask[done] and np.allclose(seen, observation, rtol=0, atol=SAME):
                action = done
        self._now.append((observation.copy(), action))
        return int(action)

    def end_episode(self, *, keep: bool) -> None:
        """Ends the running episode, which is kept in place of the one before, or forgotten."""
        self.policy.end_episode()
        self._kept = self._now if keep else self._kept
        self._now = []


def run_random(work: Plan) -> None:
    """Plays random legal actions on the same tasks, as many episodes as a team has."""
    path, described = work.out / "results" / RANDOM, played_on(work)
    if read_if_same(path, described):
        return
    runs = []
    for i, task in enumerate(work.tasks):
        seeds = [(i, Stream.RANDOM_YARDSTICK, e) for e in range(described["episodes"])]
        returns = play(work.family, task, 1.0, seeds, "random").returns
        runs.append({"task": task.to_json(), "returns": [round(float(r), 6) for r in returns]})
    write_json(path, {"described": described, "runs": runs})


def run_behaviours(work: Plan) -> None:
    """Plays the dataset's behaviour policies, which teams could imitate, on the same tasks."""
    family, tasks = work.family, work.tasks
    path = work.out / "results" / "behaviours.json"
    episodes = EpisodeFile(work.behaviours_unit.files.episodes)
    description = {
        "dataset": episodes.fingerprint,
        "episodes": _BEHAVIOUR_EPISODES,
        "tasks": [task.to_json() for task in tasks],
    }
    if read_if_same(path, description):
        return
    rows = {}
    for behaviour in episodes.behaviours:
        if behaviour.random_rate < 0:  # of imported episodes, whose policies are not known
            continue
        level = f", aim {behaviour.target:.0%}" if behaviour.name == "expert" else ""
        if behaviour.name == ANNEALED:
            level = f", {behaviour.random_rate:.1%} random"
        name, runs = f"{BEHAVIOUR}{behaviour.name}{level}", []
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


def read_yardsticks(work: Plan) -> dict[str, list[Any]]:
    """Reads the results of the scripted explorers, of random actions and of behaviour policies.

    Returns:
        Those that were played on the same, by their names: one result for each seed of an explorer.
    """
    rows: dict[str, list[Any]] = {}
    results, described = work.out / "results", _explored(work)
    for name, file in (
        ("scripted explorer", EXPLORER),
        ("scripted explorer, replay", EXPLORER_REPLAY),
    ):
        if played := read_if_same(results / file, described):
            runs = played["runs"]
            rows[name] = [{"runs": [r for r in runs if r["seed"] == s]} for s in work.seeds]
    if played := read_if_same(results / RANDOM, played_on(work)):
        rows["random actions"] = [played]
    behaviours = results / "behaviours.json"
    if behaviours.exists():
        played = read_json(behaviours)
        dataset = work.behaviours_unit.files.episodes
        fingerprint = EpisodeFile(dataset).fingerprint if dataset.exists() else None
        same_tasks = played["described"]["tasks"] == [task.to_json() for task in work.tasks]
        if same_tasks and fingerprint in (None, played["described"]["dataset"]):
            rows |= {name: [row] for name, row in played["rows"].items()}
    return rows


def played_on(work: Plan) -> dict[str, Any]:
    """Describes what a yardstick is played on: the family, tasks, and the episodes of each."""
    return {
        "family": work.family.fingerprint,
        "episodes": work.units[0].config.adapt.episodes,
        "tasks": [task.to_json() for task in work.tasks],
    }


def _explored(work: Plan) -> dict[str, Any]:
    """Describes what an explorer is played on, and with which seeds."""
    return {**played_on(work), "seeds": work.seeds}


def read_if_same(path: Path, description: Mapping[str, Any]) -> Any:
    """Reads a yardstick's result; None if it is not there, or was played on something else."""
    played = read_json(path) if path.exists() else None
    return played if played and played["described"] == description else None
