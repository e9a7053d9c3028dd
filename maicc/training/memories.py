"""Memories in training: which of an agent's episodes stand for what it has lived through."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from maicc.data.behaviour import is_informed
from maicc.data.dataset import EpisodeFile
from maicc.data.returns import solved
from maicc.data.slices import Slices
from maicc.envs import TaskFamily


class Memories:
    """Leaves out of memories what a team could not have lived through.

    Args:
        stored: The dataset's trajectories.
        family: The task family.
        path: The dataset.
        bounds: Lowest and highest return.
        failures: Share of the memories that hold only episodes which missed the maximum.
        informed_failures: Whether memories hold such episodes of the expert's, see `DecisionFit`.
    """

    def __init__(
        self,
        stored: Slices,
        family: TaskFamily,
        path: Path,
        bounds: tuple[float, float],
        failures: float,
        informed_failures: bool,
    ) -> None:
        self.failures = failures
        self.missed = ~solved(stored.trajectories.return_to_go[:, 0], bounds)
        self.left_out = np.zeros(len(stored), bool)
        # without stated bounds the best return of the data is the maximum, which most episodes miss
        if not informed_failures and family.return_bounds is not None:
            behaviours = EpisodeFile(path).behaviours
            informed = np.array([is_informed(family, behaviour) for behaviour in behaviours])
            self.left_out = self.missed & informed[stored.behaviour]

    def among(self, episodes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Picks those of an agent's episodes (n,) that its memory may hold."""
        episodes = episodes[~self.left_out[episodes]]
        failures = episodes[self.missed[episodes]]
        return failures if rng.random() < self.failures and len(failures) else episodes
