"""A dataset whose observations tell the hidden part of each task, made of one that does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from maicc.data.dataset import EpisodeFile, write_episodes
from maicc.data.episodes import EpisodeBatch, join
from maicc.envs import TaskFamily


def reveal_dataset(hidden: Path, family: TaskFamily, out: Path) -> None:
    """Writes the episodes of a dataset as `family` shows them.

    Args:
        hidden: Dataset of the family that does not tell.
        family: The family that `TaskFamily.revealed` makes of it.
        out: Path of the dataset that is written.
    """
    source = EpisodeFile(hidden)
    of_task = np.stack([family.hidden_part(task) for task in family.training_tasks])

    def told(episodes: EpisodeBatch) -> EpisodeBatch:
        numbers = of_task[episodes.task][:, None, None]  # (E, 1, 1, R)
        # to agents that are alive, and in the end to those who saw the last step
        alive = np.pad(episodes.alive, ((0, 0), (0, 1), (0, 0)))  # (E, T+1, N)
        at, last = np.arange(len(episodes)), episodes.length
        alive[at, last] = alive[at, last - 1]
        observations = np.concatenate([episodes.observations, numbers * alive[..., None]], -1)
        return replace(episodes, observations=observations.astype(np.float32))

    spec, own = family.spec, source.spec
    write_episodes(
        out,
        join((vars(told(part)) for part in source.parts()), len(source), out.parent),
        replace(spec, return_min=own.return_min, return_max=own.return_max),
        family.training_tasks,
        source.behaviours,
        rosters=source.rosters,
    )
