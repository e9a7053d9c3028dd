"""Batches for a decision model that reads what an agent remembers: METHOD.md, section 12.

A memory holds whole episodes of one agent in one task, as the agent has them at test time: none at
first, then more, and often failures alone. The record is chosen from it and, where the model is to
retrieve from its `own` memory, so are the contexts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from maicc.config import MemoryConfig
from maicc.data.returns import normalised
from maicc.data.slices import Slices, by_task_and_agent
from maicc.memory import best_and_latest
from maicc.memory.utility import hybrid_utility, top_k
from maicc.models.batching import tensors
from maicc.models.decision import DecisionBatch
from maicc.streams import Stream
from maicc.training.memories import Memories
from maicc.training.offline_keys import OfflineKeys
from maicc.training.retrieval_data import RetrievalData

_USUAL = MemoryConfig()  # how a team looks up its own, unless it is told otherwise


class Drawn(NamedTuple):
    """Queries of an agent that remembers the same episodes in each; numbers of trajectories."""

    queries: np.ndarray  # (n,)
    memory: np.ndarray  # (M,) episodes in the order they were lived through


class RecordData(RetrievalData):
    """Batches of queries with a record, retrieved contexts, or both, as the model takes them.

    Args:
        record: Most episodes of a record; as many as the decision model takes if None.
        share: Queries that share a memory, from which their record is chosen.
        failures, informed_failures: Those of `Memories`.
        options: Arguments of `RetrievalData`.
    """

    stream: tuple[int, ...] = (Stream.RECORD_BATCHES,)

    def __init__(
        self,
        record: int | None = None,
        share: int = 4,
        failures: float = 0.5,
        informed_failures: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.record, self.share, self.failures = record, share, failures
        self.informed_failures = informed_failures

    def setup(self, stage: str) -> None:
        """Reads the dataset and its keys."""
        if self.record is None:
            assert self.trainer is not None
            module: Any = self.trainer.lightning_module
            self.record = module.config.record
        super().setup(stage)

    def use(self, keys: OfflineKeys | None, stored: Slices, held: np.ndarray | None = None) -> None:
        """Sets the trajectories and keys, and groups trajectories by task and agent."""
        super().use(keys, stored, held)
        self.groups = by_task_and_agent(stored, np.flatnonzero(~self.held))
        self.held_groups = by_task_and_agent(stored, np.flatnonzero(self.held))
        self.agent = stored.agent
        self.lived = {self._whose(group): group for agents in self.groups for group in agents}
        self.memories = Memories(self, stored, self.failures, self.informed_failures)

    def batches(
        self, step: int, rank: int = 0, *, held_back: bool = False
    ) -> Iterator[DecisionBatch]:
        """Yields queries with their records."""
        while True:
            rng = np.random.default_rng([self.seed, *self.stream, rank, step])
            drawn = self._draw(rng, self.batch_size, held_back)
            item = np.concatenate([part.queries for part in drawn])
            set_of = np.repeat(np.arange(len(drawn)), [len(part.queries) for part in drawn])
            last = (rng.random(len(item)) * self.length[item]).astype(np.int64)
            if self.retrieval.source == "own" and self.k:
                pairs = zip(item, last, (drawn[s].memory for s in set_of), strict=True)
                context = np.stack([self._own(*pair) for pair in pairs])
            else:
                context = self.neighbours(item, last, rng)
            batch = self._batch(item, context, last)
            if self.record:
                shown = self._shown([part.memory for part in drawn])
                episodes, place = np.unique(shown[shown >= 0], return_inverse=True)
                shown[shown >= 0] = place
                if not len(episodes):  # a blank one, so that every step trains all weights
                    episodes = np.array([-1])
                record = tensors(self.stored.take(episodes))
                batch = batch._replace(record=record, shown=torch.from_numpy(shown[set_of]))
            yield batch
            step += 1

    def _draw(self, rng: np.random.Generator, n: int, held_back: bool) -> list[Drawn]:
        """Draws sets of n queries in all."""
        drawn: list[Drawn] = []
        while left := n - sum(len(part.queries) for part in drawn):
            drawn.append(self._draw_set(rng, min(self.share, left), held_back))
        return drawn

    def _draw_set(self, rng: np.random.Generator, share: int, held_back: bool = False) -> Drawn:
        """Draws up to `share` queries of one agent in one task, and episodes that it remembers.

        What it remembers is held back only where the whole task is.
        """
        groups = self.held_groups if held_back else self.groups
        agents = groups[rng.integers(len(groups))]
        group = agents[rng.integers(len(agents))]
        share = min(share, max(len(group) // 2, 1))  # of few episodes some are remembered
        queries = rng.choice(group, share, replace=False)
        others = np.setdiff1d(self.lived.get(self._whose(group), group), queries)
        others = self.memories.among(others, rng)
        assert self.record is not None
        most = self.record
        if self.retrieval.source == "own":
            most = max(most, self.retrieval.memory)
        n = min(int(rng.integers(most + 1)), len(others))
        return Drawn(queries, rng.choice(others, n, replace=False))

    def _whose(self, group: np.ndarray) -> tuple[int, int]:
        """Tells the task and the agent of a group."""
        return int(self.task[group[0]]), int(self.agent[group[0]])

    def _own(self, query: int, step: int, memory: np.ndarray) -> np.ndarray:
        """Finds contexts (K,) in a memory as a team does; -1 where there are none."""
        assert self.k is not None
        assert self.vectors is not None
        reached = memory[self.length[memory] > step]
        chosen = np.full(self.k, -1)
        if len(reached):
            similarity = self.vectors[reached, step] @ self.vectors[query, step]
            returns = normalised(self.team_return[reached], *self.spec.bounds)
            score = hybrid_utility(similarity[None], returns[None], np.zeros((1, 1)), _USUAL.alpha)
            short = max(self.k - len(reached), 0)
            reached = np.pad(reached, (0, short), constant_values=-1)
            score = np.pad(score, ((0, 0), (0, short)))
            chosen = reached[top_k(score, reached[None], self.k, _USUAL.margin)[0]]
        return chosen

    def _shown(self, memories: list[np.ndarray]) -> np.ndarray:
        """Chooses the episodes (S, E) that memories show in a record; -1 where they have fewer."""
        assert self.record is not None
        shown = np.full((len(memories), self.record), -1)
        for row, memory in zip(shown, memories, strict=True):
            chosen = best_and_latest(self.team_return[None, memory], self.record)[0]
            row[: len(chosen)] = memory[chosen]
        return shown
