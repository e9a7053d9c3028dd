"""The blend of offline and online memory: which one is asked, and which trajectories are shown."""

from __future__ import annotations

from typing import Literal

import numpy as np

from maicc.memory.stores import OfflineMemory, OnlineMemory
from maicc.memory.utility import hybrid_utility, top_k
from maicc.types import Retrieval, Trajectories, UserError


class BlendedMemory:
    """An offline and an online memory, of which each query asks one, and the scores of the answers.

    Args:
        k: Trajectories per query.
        candidates: Nearest trajectories that are scored.
        alpha, score: See `hybrid_utility`; score `random` draws without looking at keys.
        margin: See `top_k`.
        own_only: Whether the offline memory is never asked; contexts may then be absent.

    Raises:
        UserError: trajectories are to be looked up, and the dataset has no keys.
    """

    def __init__(
        self,
        offline: OfflineMemory,
        online: OnlineMemory,
        k: int,
        candidates: int,
        alpha: float,
        score: Literal["paper", "code", "similarity", "random"],
        margin: float = np.inf,
        own_only: bool = False,
    ) -> None:
        if k and offline.index is None:
            raise UserError(f"k={k} trajectories are looked up by keys, and the dataset has none")
        self.offline, self.online = offline, online
        self.k, self.candidates, self.alpha = k, candidates, alpha
        self.score, self.margin, self.own_only = score, margin, own_only

    def retrieve(
        self,
        rows: np.ndarray,
        step: int,
        queries: np.ndarray,
        ask_offline: np.ndarray,
        tie: np.ndarray,
        draws: np.ndarray,
    ) -> Retrieval:
        """Looks up the k best trajectories for each query, in the memory that the query asks.

        A query is sent to the offline memory, whatever `ask_offline` says, while too few of the
        agent's own trajectories reached `step`. One is enough where the best may be shown again,
        which is with a margin and a score other than `random`; else k are needed.

        Args:
            rows: (Q,) the agent that asks.
            step: The step of all queries.
            queries: (Q, D) unit norm.
            ask_offline: (Q,) bool.
            tie: (Q,) in [0, 1), for ties.
            draws: (Q, K) in [0, 1), for score `random`.
        """
        n_reached = self.online.played(rows, step).sum(1)
        n_needed = 1 if self.margin < np.inf and self.score != "random" else self.k
        offline = (ask_offline | (n_reached < n_needed)) & (not self.own_only)
        shape = (len(rows), self.k)
        result = Retrieval(
            np.full(shape, -1), offline, np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        )
        for source in (True, False):
            asking = np.flatnonzero((offline == source) & (offline | (n_reached > 0)))
            if len(asking) == 0:
                continue
            if self.score == "random":
                result.item[asking] = self._draw(source, rows[asking], step, draws[asking])
                continue
            result.item[asking], result.similarity[asking], result.score[asking] = self._best(
                source, rows[asking], step, queries[asking], tie[asking]
            )
        return result

    def _draw(self, offline: bool, rows: np.ndarray, step: int, draws: np.ndarray) -> np.ndarray:
        """Draws items (Q, K) from one of the memories."""
        if offline:
            assert self.offline.index is not None
            return self.offline.index.draw(step, draws)
        return self.online.draw(rows, step, draws)

    def _best(
        self, offline: bool, rows: np.ndarray, step: int, queries: np.ndarray, tie: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Finds the items with the best scores in one of the memories.

        Returns:
            Items, their similarities and their scores, (Q, K) each.
        """
        assert self.score != "random"
        if offline:
            assert self.offline.index is not None
            item, similarity = self.offline.index.search(step, queries, self.candidates, tie)
            team = self.offline.team_return[item]
            individual = self.offline.individual_return[item]
        else:
            item, similarity = self.online.search(rows, step, queries, self.candidates, tie)
            team = np.take_along_axis(self.online.team_return[rows], item, 1)
            individual = np.take_along_axis(self.online.individual_return[rows], item, 1)
        score = hybrid_utility(similarity, team, individual, self.alpha, self.score, offline)
        best = top_k(score, item, self.k, self.margin)
        return (
            np.take_along_axis(item, best, 1),
            np.take_along_axis(similarity, best, 1),
            np.take_along_axis(score, best, 1),
        )

    def origin(self, rows: np.ndarray, retrieval: Retrieval) -> tuple[np.ndarray, np.ndarray]:
        """Origin of the retrieved trajectories: team returns and tasks, (Q, K) each.

        Args:
            rows: (Q,) the agent that asked.

        Returns:
            Team return in [0, 1], NaN for an absent trajectory, and number of the dataset's task,
            -1 for a trajectory that is absent or not of the dataset.
        """
        offline, item = retrieval.offline, retrieval.item
        team_return = np.empty(item.shape)
        task = np.full(item.shape, -1)
        team_return[offline] = self.offline.team_return[item[offline]]
        task[offline] = self.offline.task[item[offline]]
        own, row = self._own(rows, retrieval)
        team_return[own] = self.online.team_return[row, item[own]]
        return np.where(item >= 0, team_return, np.nan), np.where(item >= 0, task, -1)

    def contexts(self, rows: np.ndarray, retrieval: Retrieval) -> Trajectories:
        """The retrieved trajectories (Q, K, T, ...); an absent one has no step that was played."""
        offline, item = retrieval.offline, retrieval.item
        own, row = self._own(rows, retrieval)
        parts = []
        for dataset_part, online_part in zip(
            self.offline.trajectories, self.online.trajectories, strict=True
        ):
            part = np.zeros((*item.shape, *dataset_part.shape[1:]), dataset_part.dtype)
            part[offline] = dataset_part[item[offline]]
            part[own] = online_part[row, item[own]]
            parts.append(part)
        contexts = Trajectories(*parts)
        return contexts._replace(step_mask=contexts.step_mask & (item >= 0)[..., None])

    @staticmethod
    def _own(rows: np.ndarray, retrieval: Retrieval) -> tuple[np.ndarray, np.ndarray]:
        """Marks items (Q, K) of the online memory, and names the row that each of them is in."""
        own = ~retrieval.offline[:, None] & (retrieval.item >= 0)
        return own, np.broadcast_to(rows[:, None], own.shape)[own]
