"""Batches for a decision model that reads a record: METHOD.md, section 13.

A record is a set of whole episodes of one agent in one task, as the agent has it at test time:
empty at first, then up to as many episodes as the model reads, and often failures alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from maicc.data.dataset import Slices
from maicc.data.returns import solved
from maicc.models.decision import DecisionBatch
from maicc.models.record import packed, transitions
from maicc.streams import Stream
from maicc.training.offline_keys import OfflineKeys
from maicc.training.retrieval_data import RetrievalData

_FAILURES = 0.5  # of the records: only episodes that missed the maximum, as a searching team has


class Drawn(NamedTuple):
    """Queries that share a record; numbers of trajectories."""

    queries: np.ndarray  # (n,)
    shown: np.ndarray  # (record,) the episodes of the record, -1 at places that stay empty


class RecordData(RetrievalData):
    """Batches of queries with a record and, where the model takes any, retrieved contexts.

    Args:
        record: Most episodes of a record; as many as the decision model takes if None.
        share: Queries that share a record.
        options: Arguments of `RetrievalData`.
    """

    def __init__(self, record: int | None = None, share: int = 4, **options: Any) -> None:
        super().__init__(**options)
        self.record, self.share = record, share

    def setup(self, stage: str) -> None:
        """Reads the dataset and its keys."""
        if self.record is None:
            assert self.trainer is not None
            module: Any = self.trainer.lightning_module
            self.record = module.config.record
        super().setup(stage)

    def use(self, keys: OfflineKeys | None, stored: Slices) -> None:
        """Sets the trajectories and keys, and groups trajectories by task and agent."""
        super().use(keys, stored)
        self.groups: list[list[np.ndarray]] = [
            [
                np.flatnonzero((stored.task == task) & (stored.agent == agent))
                for agent in np.unique(stored.agent[stored.task == task])
            ]
            for task in np.unique(stored.task)
        ]
        self.missed = ~solved(self.team_return, self.spec.bounds)

    def batches(self, step: int, rank: int = 0) -> Iterator[DecisionBatch]:
        """Yields queries with their records."""
        while True:
            rng = np.random.default_rng([self.seed, Stream.RECORD_BATCHES, rank, step])
            drawn = self._draw(rng, self.batch_size)
            item = np.concatenate([part.queries for part in drawn])
            last = (rng.random(len(item)) * self.length[item]).astype(np.int64)
            batch = self._batch(item, self.neighbours(item, last, rng), last)
            set_of = np.repeat(np.arange(len(drawn)), [len(part.queries) for part in drawn])
            yield batch._replace(
                record=self._record(np.stack([part.shown for part in drawn])),
                set_of=torch.from_numpy(set_of),
            )
            step += 1

    def _draw(self, rng: np.random.Generator, n: int) -> list[Drawn]:
        """Draws n queries, `share` of them with each record."""
        return [self._draw_set(rng) for _ in range(max(n // self.share, 1))]

    def _draw_set(self, rng: np.random.Generator) -> Drawn:
        """Draws queries of one agent in one task, and the other episodes that they are shown."""
        agents = self.groups[rng.integers(len(self.groups))]
        group = agents[rng.integers(len(agents))]
        queries = rng.choice(group, self.share, replace=len(group) < self.share)
        others = np.setdiff1d(group, queries)
        failures = others[self.missed[others]]
        if rng.random() < _FAILURES and len(failures):
            others = failures
        assert self.record is not None
        shown = np.full(self.record, -1)
        n = min(int(rng.integers(self.record + 1)), len(others))
        shown[:n] = rng.choice(others, n, replace=False)
        return Drawn(queries, shown)

    def _record(self, shown: np.ndarray) -> Any:
        """Takes the steps of episodes (S, record)."""
        episodes = self.slices.take(torch.from_numpy(shown))
        exists = torch.from_numpy(shown >= 0).unsqueeze(-1)
        return packed(transitions(episodes._replace(step_mask=episodes.step_mask & exists)))
