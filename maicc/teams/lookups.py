"""Statistics of a team's look-ups: which memory was asked, which tasks and returns it gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maicc.envs import TaskFamily
from maicc.types import Task

# offline: share of the look-ups that asked the dataset
# nearest_task: share of the dataset's trajectories that are of the training tasks nearest to the
#     task that is played
# return_gap: mean return that the trajectories miss to the maximum
DIAGNOSTICS = ("offline", "nearest_task", "return_gap")


class LookupStats:
    """Counts of look-ups for each run. No agent acts on them.

    Args:
        runs: Number of teams in lock step.
        tasks: Number of tasks in the dataset.
    """

    def __init__(self, runs: int, tasks: int) -> None:
        self.n_lookups = np.zeros(runs)
        self.n_offline = np.zeros(runs)  # look-ups that asked the dataset
        self.n_of_task = np.zeros((runs, tasks))  # trajectories of the dataset, by their task
        self.n_trajectories = np.zeros(runs)
        self.sum_of_returns = np.zeros(runs)  # of all trajectories, each in [0, 1]

    def add(
        self, run: np.ndarray, offline: np.ndarray, team_return: np.ndarray, task: np.ndarray
    ) -> None:
        """Counts Q look-ups and the K trajectories that each of them gave.

        Args:
            run: (Q,) number of the run.
            offline: (Q,) bool, whether the dataset was asked.
            team_return: (Q, K) in [0, 1]; NaN where a trajectory is absent.
            task: (Q, K) number of the dataset's task; -1 where the trajectory is not of the
                dataset.
        """
        exists = np.isfinite(team_return)
        np.add.at(self.n_lookups, run, 1)
        np.add.at(self.n_offline, run, offline)
        np.add.at(self.n_trajectories, run, exists.sum(1))
        np.add.at(self.sum_of_returns, run, np.where(exists, team_return, 0).sum(1))
        lookup, place = np.nonzero(task >= 0)
        np.add.at(self.n_of_task, (run[lookup], task[lookup, place]), 1)

    def diagnostics(self, nearest: np.ndarray, return_range: float) -> np.ndarray:
        """`DIAGNOSTICS` (3,) over all runs; NaN where there was no look-up or no trajectory.

        Args:
            nearest: (runs, tasks) bool, the dataset's tasks that are nearest to the run's.
            return_range: From the lowest return to the highest.
        """
        # the dataset may hold no episode of the last tasks
        nearest = nearest[:, : self.n_of_task.shape[1]]
        has_nearest = nearest.any(1)
        with np.errstate(invalid="ignore"):
            return np.array(
                [
                    self.n_offline.sum() / self.n_lookups.sum(),
                    self.n_of_task[nearest].sum() / self.n_of_task[has_nearest].sum(),
                    (1 - self.sum_of_returns.sum() / self.n_trajectories.sum()) * return_range,
                ]
            )


def nearest_tasks(family: TaskFamily, tasks: Sequence[Task], stored: Sequence[Task]) -> np.ndarray:
    """Marks the `stored` tasks that are nearest to each of `tasks`: (tasks, stored) bool.

    All are False where the family does not tell how far apart tasks are.
    """
    if family.distance is None or not stored:
        return np.zeros((len(tasks), len(stored)), bool)
    distance = [[family.distance(t.parameters, s.parameters) for s in stored] for t in tasks]
    return np.array(distance) <= np.min(distance, 1, keepdims=True)


def as_json(diagnostics: np.ndarray) -> dict[str, list[float | None]]:
    """Lists of `DIAGNOSTICS` (3, episodes), by their names; one that is always NaN is left out."""
    return {
        name: [None if np.isnan(x) else round(float(x), 4) for x in row]
        for name, row in zip(DIAGNOSTICS, diagnostics, strict=True)
        if not np.isnan(row).all()
    }


def first_and_last(results: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """Means of the first and of the last ten episodes over results of `adapt`, by diagnostic.

    For `nearest_task` an episode has the weight of its share of look-ups that asked the dataset.
    """
    means = {}
    for name in DIAGNOSTICS:
        diagnostics = [r["retrieval"] for r in results if name in r.get("retrieval", {})]
        if diagnostics:
            rows = np.array([by_name[name] for by_name in diagnostics], float)
            weight = np.ones_like(rows)
            if name == "nearest_task":
                weight = np.array([by_name["offline"] for by_name in diagnostics], float)
            weight = np.where(np.isnan(rows), 0, weight)
            ends = [
                (np.nansum((rows * weight)[:, part]), weight[:, part].sum())
                for part in (slice(10), slice(-10, None))
            ]
            means[name] = [round(float(total / of), 4) if of else None for total, of in ends]
    return means
