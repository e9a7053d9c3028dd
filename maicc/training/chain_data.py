"""Batches for the rivals: several episodes of one agent in one task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maicc.data.dataset import EpisodeFile
from maicc.data.slices import by_task_and_agent, slices
from maicc.models.batching import tensors
from maicc.streams import Stream
from maicc.training.family_data import FamilyData
from maicc.types import Trajectories


class ChainBatch(NamedTuple):
    """Slices of one agent, from episodes of one task drawn at random."""

    chain: Trajectories  # (B, E, T, ...) tensors
    expert: Tensor  # (B, E, T) int64, action of the best behaviour policy; -1 unknown
    hidden: Tensor | None = None  # (B, R) the hidden part of the task, where the family tells it


def reordered(chain: Trajectories, by: Tensor) -> Trajectories:
    """Sorts the episodes of each chain (B, E, T, ...) by `by` (B, E), ascending."""
    order = by.argsort(dim=1, stable=True)
    row = torch.arange(len(order), device=order.device)[:, None]
    return chain.take(np.s_[row, order])


class ChainData(FamilyData):
    """Chains of episodes, each of a task drawn at random.

    Args:
        family: Task family; `maicc tasks` lists them.
        path: The dataset; collected first, with default settings, if it does not exist.
        episodes: Episodes of a chain; as many as the model takes if None.
        batch_size: Chains per batch.
        seed: Seed of the batches.
        held_back: Share of the episodes that are not trained on.
    """

    def __init__(
        self,
        family: str,
        path: str = "runs/episodes.h5",
        episodes: int | None = None,
        batch_size: int = 24,
        seed: int = 0,
        held_back: float = 0.0,
    ) -> None:
        super().__init__(family, path, seed, held_back)
        self.episodes, self.batch_size = episodes, batch_size

    def setup(self, stage: str) -> None:
        """Reads the dataset, and groups its slices by task and agent."""
        if self.episodes is None:
            assert self.trainer is not None
            module: Any = self.trainer.lightning_module
            self.episodes = module.drawn(module.config, module.spec)
        dataset = EpisodeFile(self.path)
        episodes = dataset.mapped()
        stored = slices(episodes, self.spec.bounds)
        self.stored, self.hidden = stored, self.hidden_parts()
        held = self.hold_back(episodes)[stored.episode]
        self.groups = by_task_and_agent(stored, np.flatnonzero(~held))
        self.held_groups = by_task_and_agent(stored, np.flatnonzero(held))

    def batches(self, step: int, rank: int = 0, *, held_back: bool = False) -> Iterator[ChainBatch]:
        """Yields chains: for each one a task is drawn, then an agent, then its episodes."""
        groups = self.held_groups if held_back else self.groups
        while True:
            rng = np.random.default_rng([self.seed, Stream.CHAIN_BATCHES, rank, step])
            chosen = []
            for _ in range(self.batch_size):
                agents = groups[rng.integers(len(groups))]
                chosen.append(self.draw(agents[rng.integers(len(agents))], rng))
            item = np.stack(chosen)
            chain = tensors(self.stored.take(item))
            expert = torch.from_numpy(self.stored.expert[item])
            hidden = None if self.hidden is None else self.hidden[self.stored.task[item.max(1)]]
            yield ChainBatch(chain, expert[:, :, : chain.actions.shape[2]], hidden)
            step += 1

    def draw(self, items: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draws the chain (E,) of an agent in a task, whose slices are `items`.

        At -1 stands a blank episode; a chain has one at least that is not blank.
        """
        assert self.episodes is not None
        return rng.choice(items, self.episodes, replace=len(items) < self.episodes)
