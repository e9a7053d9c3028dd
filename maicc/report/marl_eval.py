"""Results in the raw format of marl-eval (Gorsane et al. 2022), which its own tools read.

The format is nested: environment, task, algorithm, run, step, metric. Here these are the family,
the task, the variant, the model of one seed, an adaptation episode, and `mean_episode_returns`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

METRIC = "mean_episode_returns"
MOST_STEPS = 50  # of longer adaptations so many episodes are kept, evenly apart
_LAST = 10  # episodes of the absolute metric, as in the table


def marl_eval(
    family: str, results: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """Makes the content of a file for marl-eval.

    A metric lists the returns of all runs that one model plays on one task. marl-eval compares
    algorithms that have as many runs and steps on every task, so it takes finished benchmarks whose
    variants play as many episodes.

    Args:
        family: Name of the task family.
        results: Results of each variant, one for each finished seed.
    """
    tasks: dict[str, Any] = {}
    for variant, of_seeds in results.items():
        for i, result in enumerate(of_seeds):
            by_task: dict[str, list[list[float]]] = {}
            for run in result["runs"]:
                by_task.setdefault(run["task"]["name"], []).append(run["returns"])
            for task, returns in by_task.items():
                algorithms = tasks.setdefault(task, {}).setdefault(variant, {})
                algorithms[f"run_{i}"] = _run(np.array(returns))
    return {family: tasks}


def _run(returns: np.ndarray) -> dict[str, Any]:
    """Describes returns (runs, episodes) of one model on one task."""
    episodes = returns.shape[1]
    kept = np.linspace(1, episodes, min(episodes, MOST_STEPS)).round().astype(int).tolist()
    steps: dict[str, Any] = {
        f"step_{i}": {"step_count": episode, METRIC: returns[:, episode - 1].tolist()}
        for i, episode in enumerate(kept)
    }
    return {**steps, "absolute_metrics": {METRIC: returns[:, -_LAST:].ravel().tolist()}}
