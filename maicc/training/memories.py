"""Memories in training: which of an agent's episodes stand for what it has lived through."""

from __future__ import annotations

import numpy as np

from maicc.data.behaviour import informed
from maicc.data.dataset import EpisodeFile
from maicc.data.returns import solved
from maicc.data.slices import Slices
from maicc.training.family_data import FamilyData


class Memories:
    """Leaves out of memories what a team could not have lived through.

    Args:
        data: Source of the batches.
        stored: The dataset's trajectories.
        failures: Share of the memories that hold only episodes which missed the maximum.
        informed_failures: Whether memories hold such episodes of the expert's, see `DecisionFit`.
    """

    def __init__(
        self,
        data: FamilyData,
        stored: Slices,
        failures: float = 0.5,
        informed_failures: bool = False,
    ) -> None:
        self.failures = failures
        self.missed = ~solved(stored.trajectories.return_to_go[:, 0], data.spec.bounds)
        self.left_out = np.zeros(len(stored), bool)
        if not informed_failures:
            of_expert = informed(data.family, EpisodeFile(data.path).behaviours)
            self.left_out = self.missed & of_expert[stored.behaviour]

    def among(self, episodes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Picks those of an agent's episodes (n,) that its memory may hold."""
        episodes = episodes[~self.left_out[episodes]]
        failures = episodes[self.missed[episodes]]
        return failures if rng.random() < self.failures and len(failures) else episodes
