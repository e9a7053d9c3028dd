"""Batches of whole episodes, for the embedding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from maicc.data.dataset import EpisodeFile
from maicc.data.team_batch import TeamBatch, team_batch
from maicc.streams import Stream
from maicc.training.family_data import FamilyData


class EpisodeData(FamilyData):
    """Batches of episodes, each batch of one task drawn at random.

    Args:
        family: Task family; `maicc tasks` lists them.
        path: The dataset; collected first, with default settings, if it does not exist.
        batch_size: Episodes per batch.
        seed: Seed of the batches.
        window: Steps of each episode that are shown, from a random one on; 0 shows all.
        tokens: Most tokens in a batch: every step has 2 for each agent and one more. So larger
            teams get smaller batches, but at least one episode. 0 sets no limit.
        held_back: Share of the episodes that are not trained on.
    """

    def __init__(
        self,
        family: str,
        path: str = "runs/episodes.h5",
        batch_size: int = 32,
        seed: int = 0,
        window: int = 0,
        tokens: int = 0,
        held_back: float = 0.0,
    ) -> None:
        super().__init__(family, path, seed, held_back)
        self.batch_size, self.window, self.tokens = batch_size, window, tokens

    def setup(self, stage: str) -> None:
        """Reads the dataset, and chooses the episodes that are trained on."""
        self.episodes = EpisodeFile(self.path).mapped()
        self.task = self.episodes.task
        held = self.hold_back(self.episodes)
        self.trained, self.held = np.flatnonzero(~held), np.flatnonzero(held)

    def batches(self, step: int, rank: int = 0, *, held_back: bool = False) -> Iterator[TeamBatch]:
        """Yields episodes of a task that is drawn at random."""
        shown = self.held if held_back else self.trained
        by_task = [shown[self.task[shown] == t] for t in np.unique(self.task[shown])]
        while True:
            rng = np.random.default_rng([self.seed, Stream.EPISODE_BATCHES, rank, step])
            of_task = by_task[rng.integers(len(by_task))]
            yield self._batch(rng.choice(of_task, self._episodes_per_batch(of_task)), rng)
            step += 1

    def _batch(self, index: np.ndarray, rng: np.random.Generator) -> TeamBatch:
        """Takes the episodes at `index` (B,), or a window of each."""
        batch = team_batch(self.episodes.take(index), self.spec.bounds)
        if 0 < self.window < self.spec.max_steps:
            batch = batch.window(self._starts(batch, rng), self.window)
        return batch.trimmed()

    def _episodes_per_batch(self, of_task: np.ndarray) -> int:
        """Counts how many episodes of a task fit into a batch; all have one team size."""
        if not self.tokens:
            return self.batch_size
        team = int(self.episodes.agent_mask[of_task[0]].sum())
        steps = min(self.window or self.spec.max_steps, self.spec.max_steps)
        return max(min(self.batch_size, self.tokens // ((2 * team + 1) * steps)), 1)

    def _starts(self, batch: TeamBatch, rng: np.random.Generator) -> torch.Tensor:
        """Draws the first step (B,) of each episode's window.

        A start is drawn from -(window - 1) on, and a negative one is moved up to 0. So the
        beginning of an episode, which every prefix holds, is shown most often: with probability
        window / (last + window).
        """
        last = (batch.step_mask.sum(1) - self.window).clamp(min=0).numpy()
        drawn = np.floor(rng.random(len(last)) * (last + self.window)) - self.window + 1
        return torch.from_numpy(drawn.clip(0, last).astype(np.int64))
