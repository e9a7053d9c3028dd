"""Batches for the decision model: trajectories, and the contexts that their prefixes retrieve.

Queries and keys are both made in evaluation mode. So the query of a prefix is its stored key, and
nothing is embedded again. A trajectory's own episode is never in its context.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maicc.config import RetrievalConfig
from maicc.data.dataset import EpisodeFile
from maicc.data.slices import Slices, slices
from maicc.memory.utility import top_k, training_utility
from maicc.models.batching import tensors
from maicc.models.decision import DecisionBatch
from maicc.streams import Stream
from maicc.training.checkpoints import load_module
from maicc.training.family_data import FamilyData
from maicc.training.modules import EmbeddingModule
from maicc.training.offline_keys import OfflineKeys, offline_keys
from maicc.types import Candidates, UserError

_CHUNK = 64  # batches whose neighbours are found together
_SPARE = 1.5  # times as many are searched at first as are wanted, since some are held back
_OF_OTHER_TASKS = 10  # times as many where those of the query's task are left out


class RetrievalData(FamilyData):
    """Batches of queries with their contexts.

    Args:
        family: Task family; `maicc tasks` lists them.
        path: The dataset.
        embedding: Checkpoint of a trained embedding; the keys are kept beside it. Without contexts
            it is not read.
        k: Trajectories per context; as many as the decision model takes if None.
        batch_size: Queries per batch.
        seed: Seed of the batches.
        retrieval: How contexts are found.
        held_back: Share of the episodes that are not trained on, and that are in no context.
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
        held_back: float = 0.0,
    ) -> None:
        super().__init__(family, path, seed, held_back)
        self.embedding, self.retrieval = Path(embedding), retrieval
        self.k, self.batch_size = k, batch_size

    def _set_k(self) -> None:
        """Takes over the model's k, unless one was given."""
        if self.k is None:
            assert self.trainer is not None
            module: Any = self.trainer.lightning_module
            self.k = module.config.k

    def prepare_data(self) -> None:
        """Makes the dataset and its keys, if they do not exist."""
        super().prepare_data()
        self._set_k()
        self._keys()

    def _keys(self) -> OfflineKeys | None:
        """Reads or makes the keys; None where nothing is retrieved."""
        dataset = EpisodeFile(self.path)
        dataset.require(self.spec)
        if self.k == 0:
            return None
        module = load_module(self.embedding, EmbeddingModule, self.spec)
        return offline_keys(module.net, dataset, self.embedding.parent, self.retrieval.index)

    def setup(self, stage: str) -> None:
        """Reads the dataset and its keys."""
        self._set_k()
        episodes = EpisodeFile(self.path).mapped()
        stored = slices(episodes, self.spec.bounds)
        self.use(self._keys(), stored, self.hold_back(episodes)[stored.episode])

    def use(self, keys: OfflineKeys | None, stored: Slices, held: np.ndarray | None = None) -> None:
        """Sets the trajectories and keys that batches are drawn from.

        Args:
            held: (M,) bool, True at trajectories that are held back; None if none are.

        Raises:
            UserError: there are too few candidates or trajectories for k.
        """
        assert self.k is not None
        self.vectors = None if keys is None else keys.vectors  # (M, T, D), of queries
        self.index = None if keys is None else keys.index
        self.episode, self.task = stored.episode, stored.task
        self.held = np.zeros(len(self.task), bool) if held is None else held
        n, by_task = int((~self.held).sum()), self.retrieval.source == "other_tasks"
        if self.k > self.retrieval.candidates or self.k >= n:
            raise UserError(
                f"k={self.k} trajectories can't be chosen from {self.retrieval.candidates} "
                f"candidates among {n} trajectories; lower k"
            )
        if self.k and by_task and len(np.unique(self.task[~self.held])) < 2:
            raise UserError(
                "decision.retrieval.source=other_tasks needs two training tasks that are not held "
                "back; set it to dataset or own"
            )
        self.team_return = stored.trajectories.return_to_go[:, 0]
        self.length, self.stored = stored.length, stored
        self.hidden = self.hidden_parts()

    def neighbours(
        self, item: np.ndarray, step: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Finds contexts (Q, K) of the prefixes of trajectories `item` (Q,) up to `step` (Q,).

        A context is in random order. It has -1 where too few trajectories reached the step.
        """
        assert self.k is not None
        if self.k == 0:
            return np.empty((len(item), 0), np.int64)
        chosen = np.full((len(item), self.k), -1)
        tie = rng.random(len(item))
        for t in np.unique(step):
            row = np.flatnonzero(step == t)  # the queries at this step
            candidate, similarity = self._candidates(int(t), item[row], tie[row])
            query_return = self.team_return[item[row]]
            score = training_utility(
                similarity, self.team_return[candidate], query_return, self.retrieval.s_max
            )
            best = top_k(score, candidate, self.k)
            chosen[row, : best.shape[1]] = np.take_along_axis(candidate, best, 1)
        return rng.permuted(chosen, axis=1)

    def _candidates(self, step: int, item: np.ndarray, tie: np.ndarray) -> Candidates:
        """Finds the nearest trajectories that may be in the contexts of queries (Q,) at a step.

        Those of a query's own episode, or task, are left out, and those that are held back.

        Returns:
            Candidates (Q, C), nearest first; item -1 where there are fewer.
        """
        assert self.vectors is not None
        assert self.index is not None
        by_task, few = self.retrieval.source == "other_tasks", self.retrieval.candidates
        group, most = self.task if by_task else self.episode, self.index.count(step)
        found = Candidates(np.full((len(item), few), -1), np.full((len(item), few), -1.0, "f4"))
        # more are asked for than are wanted, since some are left out
        n = _OF_OTHER_TASKS * few if by_task else ceil(_SPARE * (few + self.spec.n_agents))
        row = np.arange(len(item))  # of those that are short of candidates
        while len(row):
            n = min(n, most)
            near, similarity = self.index.search(step, self.vectors[item[row], step], n, tie[row])
            left_out = (group[near] == group[item[row], None]) | self.held[near] | (near < 0)
            short = ((~left_out).sum(1) < few) & (near[:, -1] >= 0)  # more would be found
            first = np.argsort(left_out, axis=1, kind="stable")[:, :few]
            near = np.take_along_axis(np.where(left_out, -1, near), first, 1)
            found.item[row, : near.shape[1]] = near
            found.similarity[row, : near.shape[1]] = np.take_along_axis(similarity, first, 1)
            row = row[short & (n < most)]
            n *= 4  # the nearest were of the query's task, or held back
        return found

    def batches(
        self, step: int, rank: int = 0, *, held_back: bool = False
    ) -> Iterator[DecisionBatch]:
        """Yields trajectories and contexts; neighbours are found for `_CHUNK` batches together."""
        shown = np.flatnonzero(self.held == held_back)
        while True:
            chunk, skip = divmod(step, _CHUNK)
            rng = np.random.default_rng([self.seed, Stream.RETRIEVAL_BATCHES, rank, chunk])
            item = shown[rng.integers(len(shown), size=_CHUNK * self.batch_size)]
            last = (rng.random(len(item)) * self.length[item]).astype(np.int64)
            context = self.neighbours(item, last, rng)
            for i in range(skip, _CHUNK):
                part = slice(i * self.batch_size, (i + 1) * self.batch_size)
                yield self._batch(item[part], context[part], last[part])
                step += 1

    def _batch(self, item: np.ndarray, context: np.ndarray, last: np.ndarray) -> DecisionBatch:
        """Takes trajectories `item` (B,), the last steps (B,) of their prefixes, and contexts."""
        current, contexts = (tensors(self.stored.take(index)) for index in (item, context))
        expert = torch.from_numpy(self.stored.expert[item, : current.actions.shape[1]])
        hidden = None if self.hidden is None else self.hidden[self.task[item]]
        return DecisionBatch(current, contexts, torch.from_numpy(last), expert, hidden=hidden)
