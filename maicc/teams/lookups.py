"""What a team retrieved in an episode: from which memory, of which tasks, how good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maicc.envs import TaskFamily
from maicc.types import Task

# of the look-ups, those that asked the dataset; of its trajectories, those of the training tasks
# nearest to the one that is played; of all, the return that is missing to the maximum
DIAGNOSTICS = ("offline", "nearest_task", "return_gap")


class LookupStats:
    """Counts for each run; nothing an agent acts on.

    Args:
        runs: Teams in lock step.
        tasks: Tasks in the dataset.
    """

    def __init__(self, runs: int, tasks: int) -> None:
        self.asked = np.zeros(runs)
        self.offline = np.zeros(runs)
        self.task = np.zeros((runs, tasks))  # the dataset's trajectories, by their task
        self.found = np.zeros(runs)
        self.team_return = np.zeros(runs)  # of all that were found, in [0, 1]

    def add(
        self, run: np.ndarray, offline: np.ndarray, team_return: np.ndarray, task: np.ndarray
    ) -> None:
        """Look-ups (Q,) of these runs and what they found, (Q, K).

        Args:
            team_return: NaN where there was nothing to find.
            task: Number of the dataset's task; -1 where the trajectory is not of the dataset.
        """
        there = np.isfinite(team_return)
        np.add.at(self.asked, run, 1)
        np.add.at(self.offline, run, offline)
        np.add.at(self.found, run, there.sum(1))
        np.add.at(self.team_return, run, np.where(there, team_return, 0).sum(1))
        look_up, place = np.nonzero(task >= 0)
        np.add.at(self.task, (run[look_up], task[look_up, place]), 1)

    def diagnostics(self, nearest: np.ndarray, return_range: float) -> np.ndarray:
        """`DIAGNOSTICS` over all runs; NaN where nothing was asked or found.

        Args:
            nearest: (runs, tasks) bool, the dataset's tasks that are nearest to the run's.
            return_range: From the lowest return to the highest.
        """
        nearest = nearest[:, : self.task.shape[1]]  # of the last tasks there may be no episode
        known = nearest.any(1)
        with np.errstate(invalid="ignore"):
            return np.array(
                [
                    self.offline.sum() / self.asked.sum(),
                    self.task[nearest].sum() / self.task[known].sum(),
                    (1 - self.team_return.sum() / self.found.sum()) * return_range,
                ]
            )


def nearest_tasks(family: TaskFamily, tasks: Sequence[Task], stored: Sequence[Task]) -> np.ndarray:
    """Which of the `stored` tasks are nearest to each of `tasks`: (tasks, stored) bool.

    All False where the family does not tell how far apart tasks are.
    """
    if family.distance is None or not stored:
        return np.zeros((len(tasks), len(stored)), bool)
    far = [[family.distance(t.parameters, s.parameters) for s in stored] for t in tasks]
    return np.array(far) <= np.min(far, 1, keepdims=True)


def as_json(diagnostics: np.ndarray) -> dict[str, list[float | None]]:
    """`DIAGNOSTICS` by episode, (3, episodes); what is never known is left out."""
    return {
        name: [None if np.isnan(x) else round(float(x), 4) for x in row]
        for name, row in zip(DIAGNOSTICS, diagnostics, strict=True)
        if not np.isnan(row).all()
    }


def first_and_last(results: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """Means of the first and of the last ten episodes over results of `adapt`, by diagnostic.

    An episode counts for the nearest tasks as much as it asks the dataset.
    """
    means = {}
    for name in DIAGNOSTICS:
        known = [r["retrieval"] for r in results if name in r.get("retrieval", {})]
        if known:
            rows = np.array([found[name] for found in known], float)
            weight = np.ones_like(rows)
            if name == "nearest_task":
                weight = np.array([found["offline"] for found in known], float)
            weight = np.where(np.isnan(rows), 0, weight)
            ends = [
                (np.nansum((rows * weight)[:, part]), weight[:, part].sum())
                for part in (slice(10), slice(-10, None))
            ]
            means[name] = [round(float(total / of), 4) if of else None for total, of in ends]
    return means
