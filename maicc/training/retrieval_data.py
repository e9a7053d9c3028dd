"""Batches for the decision model: trajectories, and what their prefixes retrieve.

Queries and keys are both made in evaluation mode, so a query is the stored key of its own prefix.
Its own episode is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from maicc.config import RetrievalConfig
from maicc.data.dataset import EpisodeFile, Slices, slices
from maicc.memory.utility import top_k, training_utility
from maicc.models.batching import trimmed
from maicc.models.decision import DecisionBatch
from maicc.streams import Stream
from maicc.training.family_data import FamilyData
from maicc.training.modules import EmbeddingModule, load_module
from maicc.training.offline_keys import OfflineKeys, offline_keys
from maicc.types import Trajectories, UserError

_CHUNK = 64  # batches whose neighbours are found together


class RetrievalData(FamilyData):
    """Batches of queries with their contexts.

    Args:
        family: Task family; `maicc tasks` lists them.
        path: The dataset.
        embedding: Checkpoint of a trained embedding; the keys are kept beside it.
        k: Trajectories per context; those of the decision model if None.
        batch_size: Queries per batch.
        seed: Seed of the batches.
        retrieval: How contexts are found.
    """

    def __init__(
        self,
        family: str,
        path: str = "runs/episodes.h5",
        embedding: str = "runs/embedding.ckpt",
        k: int | None = None,
        batch_size: int = 96,
        seed: int = 0,
        retrieval: RetrievalConfig = RetrievalConfig(),  # noqa: B008 - never changed
    ) -> None:
        super().__init__(family, path, seed)
        self.embedding, self.retrieval = Path(embedding), retrieval
        self.k, self.batch_size = k, batch_size

    def prepare_data(self) -> None:
        super().prepare_data()
        self._keys()

    def _keys(self) -> OfflineKeys:
        dataset = EpisodeFile(self.path)
        dataset.require(self.spec)
        module = load_module(self.embedding, EmbeddingModule, self.spec)
        return offline_keys(module.net, dataset, self.embedding.parent, self.retrieval.index)

    def setup(self, stage: str) -> None:
        if self.k is None:
            self.k = self.trainer.lightning_module.config.k
        stored = slices(EpisodeFile(self.path).read(), self.spec.bounds)
        self.use(self._keys(), stored)

    def use(self, keys: OfflineKeys, stored: Slices) -> None:
        """Draws batches from these trajectories, with these keys."""
        self.keys, self.episode = keys, stored.episode
        flat = stored.trajectories
        if self.k > self.retrieval.candidates or self.k >= len(flat.actions):
            raise UserError(
                f"k={self.k} trajectories can't be chosen from {self.retrieval.candidates} "
                f"candidates among {len(flat.actions)} trajectories; lower k"
            )
        self.team_return = flat.return_to_go[:, 0]
        self.length = flat.step_mask.sum(1)
        self.expert = torch.from_numpy(stored.expert)
        self.slices = Trajectories(*(torch.from_numpy(part) for part in flat))

    def neighbours(
        self, item: np.ndarray, step: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Contexts (Q, K) of the prefixes of trajectories `item` (Q,) that end at `step` (Q,).

        In random order; -1 where too few trajectories reached the step.
        """
        n = self.retrieval.candidates + self.spec.n_agents  # an episode's own are left out
        chosen = np.full((len(item), self.k), -1)
        tie = rng.random(len(item))
        for t in np.unique(step):
            mine = np.flatnonzero(step == t)
            queries = self.keys.vectors[item[mine], t]
            found, similarity = self.keys.index.search(int(t), queries, n, tie[mine])
            own = self.episode[found] == self.episode[item[mine], None]
            found = np.where(own, -1, found)
            own_return = self.team_return[item[mine]]
            score = training_utility(
                similarity, self.team_return[found], own_return, self.retrieval.s_max
            )
            best = top_k(score, found, self.k)
            chosen[mine] = np.take_along_axis(found, best, 1)
        return rng.permuted(chosen, axis=1)

    def batches(self, step: int, rank: int = 0) -> Iterator[DecisionBatch]:
        while True:
            chunk, skip = divmod(step, _CHUNK)
            rng = np.random.default_rng([self.seed, Stream.RETRIEVAL_BATCHES, rank, chunk])
            item = rng.integers(len(self.length), size=_CHUNK * self.batch_size)
            at = (rng.random(len(item)) * self.length[item]).astype(np.int64)
            context = self.neighbours(item, at, rng)
            for i in range(skip, _CHUNK):
                part = slice(i * self.batch_size, (i + 1) * self.batch_size)
                yield self._batch(item[part], context[part], at[part])
                step += 1

    def _batch(self, item: np.ndarray, context: np.ndarray, at: np.ndarray) -> DecisionBatch:
        found = torch.from_numpy(context)
        contexts = self.slices.take(found)
        contexts = contexts._replace(step_mask=contexts.step_mask & (found >= 0).unsqueeze(-1))
        current = trimmed(self.slices.take(torch.from_numpy(item)))
        expert = self.expert[item, : current.actions.shape[1]]
        return DecisionBatch(current, trimmed(contexts), torch.from_numpy(at), expert)
