"""Batches of whole episodes, for the embedding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lightning as L
import numpy as np
import torch

from maicc.collect import collect
from maicc.config import CollectConfig
from maicc.dataset import EpisodeFile
from maicc.embedding import TeamBatch
from maicc.envs import get_family
from maicc.fitting import endless_loader
from maicc.returns import completed, return_to_go
from maicc.types import EpisodeBatch


def team_batch(episodes: EpisodeBatch, return_max: float) -> TeamBatch:
    """NumPy episodes as tensors, with outcome and return-to-go worked out."""
    steps = np.arange(episodes.actions.shape[1])
    last = steps == episodes.length[:, None] - 1
    return TeamBatch(
        observations=torch.from_numpy(episodes.observations),
        actions=torch.from_numpy(episodes.actions),
        rewards=torch.from_numpy(episodes.rewards),
        done=torch.from_numpy(last.astype(np.float32)),
        completed=torch.from_numpy(completed(episodes.rewards, return_max).astype(np.float32)),
        return_to_go=torch.from_numpy(return_to_go(episodes.rewards)),
        step_mask=torch.from_numpy(steps < episodes.length[:, None]),
        agent_mask=torch.from_numpy(episodes.agent_mask),
    )


class EpisodeData(L.LightningDataModule):
    """Batches of episodes, each of one task drawn at random.

    Args:
        family: Task family; `maicc tasks` lists them.
        path: The dataset; collected first, with default settings, if it does not exist.
        batch_size: Episodes per batch.
        seed: Seed of the batches.
    """

    def __init__(
        self, family: str, path: str = "runs/episodes.h5", batch_size: int = 32, seed: int = 0
    ) -> None:
        super().__init__()
        self.family, self.path = get_family(family), Path(path)
        self.batch_size, self.seed = batch_size, seed
        self.spec = self.family.spec

    def prepare_data(self) -> None:
        if not self.path.exists():
            collect(self.family, self.path, CollectConfig(), self.seed)
        EpisodeFile(self.path).require(self.spec)

    def setup(self, stage: str) -> None:
        episodes = EpisodeFile(self.path).read()
        self.by_task = [np.flatnonzero(episodes.task == t) for t in np.unique(episodes.task)]
        self.episodes = team_batch(episodes, self.spec.return_max)

    def batches(self, step: int) -> Iterator[TeamBatch]:
        while True:
            rng = np.random.default_rng([self.seed, 30, self.trainer.global_rank, step])
            mine = self.by_task[rng.integers(len(self.by_task))]
            index = torch.from_numpy(rng.choice(mine, self.batch_size))
            yield TeamBatch(*(part[index] for part in self.episodes)).trimmed()
            step += 1

    def train_dataloader(self):
        return endless_loader(self.batches, self)
