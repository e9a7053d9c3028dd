"""Batches for the rivals: several episodes of one agent in one task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from maicc.data.dataset import EpisodeFile, slices
from maicc.streams import Stream
from maicc.training.family_data import FamilyData
from maicc.types import Trajectories


class ChainBatch(NamedTuple):
    """Slices of one agent, from episodes of one task drawn at random."""

    chain: Trajectories  # (B, E, T, ...) tensors
    level: Tensor  # (B, E) what the behaviour policy of each reaches, as a share of the maximum
    expert: Tensor  # (B, E, T) int64, what the best behaviour policy would have done; -1 unknown


def reordered(chain: Trajectories, by: Tensor) -> Trajectories:
    """The episodes of each chain (B, E, T, ...), in the order of `by` (B, E), ascending."""
    order = by.argsort(dim=1, stable=True)
    row = torch.arange(len(order), device=order.device)[:, None]
    return Trajectories(*(part[row, order] for part in chain))


class ChainData(FamilyData):
    """Chains of episodes, each of a task drawn at random.

    Args:
        family: Task family; `maicc tasks` lists them.
        path: The dataset; collected first, with default settings, if it does not exist.
        episodes: Of a chain; those that the model takes if None.
        batch_size: Chains per batch.
        seed: Seed of the batches.
    """

    def __init__(
        self,
        family: str,
        path: str = "runs/episodes.h5",
        episodes: int | None = None,
        batch_size: int = 24,
        seed: int = 0,
    ) -> None:
        super().__init__(family, path, seed)
        self.episodes, self.batch_size = episodes, batch_size

    def setup(self, stage: str) -> None:
        if self.episodes is None:
            module = self.trainer.lightning_module
            self.episodes = module.drawn(module.config)
        dataset = EpisodeFile(self.path)
        stored = dataset.read()
        found = slices(stored, self.spec.bounds)
        reached = np.array([b.reached for b in dataset.behaviours], np.float32)
        self.slices = Trajectories(*(torch.from_numpy(part) for part in found.trajectories))
        self.level = torch.from_numpy(reached[stored.behaviour[found.episode]])
        self.expert = torch.from_numpy(found.expert)
        task = stored.task[found.episode]
        self.groups = [  # by task, then by agent
            [mine[found.agent[mine] == a] for a in np.unique(found.agent[mine])]
            for mine in (np.flatnonzero(task == t) for t in np.unique(task))
        ]

    def batches(self, step: int, rank: int = 0) -> Iterator[ChainBatch]:
        while True:
            rng = np.random.default_rng([self.seed, Stream.CHAIN_BATCHES, rank, step])
            chosen = []
            for _ in range(self.batch_size):
                agents = self.groups[rng.integers(len(self.groups))]
                mine = agents[rng.integers(len(agents))]
                chosen.append(rng.choice(mine, self.episodes, replace=len(mine) < self.episodes))
            item = torch.from_numpy(np.stack(chosen))
            T = int(self.slices.step_mask[item].sum(-1).max())
            chain = Trajectories(*(part[item][:, :, :T] for part in self.slices))
            yield ChainBatch(chain, self.level[item], self.expert[item][:, :, :T])
            step += 1
