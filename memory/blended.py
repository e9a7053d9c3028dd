"""The blend of offline and online memory: which is asked, and what is shown."""

from __future__ import annotations

from typing import Literal

import numpy as np

from maicc.memory.stores import OfflineMemory, OnlineMemory
from maicc.memory.utility import hybrid_utility, top_k
from maicc.types import Retrieval, Trajectories


class BlendedMemory:
    """Asks the offline or the online memory, as told for each query, and scores what it offers.

    Args:
        k: Trajectories per query.
        candidates: Nearest trajectories that are scored.
        alpha, score: See `hybrid_utility`; score `random` draws without looking at keys.
        margin: See `top_k`.
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
    ) -> None:
        self.offline, self.online = offline, online
        self.k, self.candidates, self.alpha = k, candidates, alpha
        self.score, self.margin = score, margin

    def retrieve(
        self,
        rows: np.ndarray,
        step: int,
        queries: np.ndarray,
        ask_offline: np.ndarray,
        tie: np.ndarray,
        draws: np.ndarray,
    ) -> Retrieval:
        """
        Where too few of an agent's own trajectories reached `step`, the offline memory is asked:
        fewer than k, or none where the best one is shown again: with a margin, but not at random.

        Args:
            rows: (Q,) the agent that asks.
            queries: (Q, D) unit norm.
            ask_offline: (Q,) bool.
            tie: (Q,) in [0, 1), for ties.
            draws: (Q, K) in [0, 1), for score `random`.
        """
        used = int(self.online.count.max(initial=0))
        reached = self.online.trajectories.step_mask[rows, :used, step].sum(1)
        repeats = self.margin < np.inf and self.score != "random"
        offline = ask_offline | (reached < (1 if repeats else self.k))
        shape = (len(rows), self.k)
        result = Retrieval(
            np.full(shape, -1), offline, np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        )
        for source in (True, False):
            mine = np.flatnonzero(offline == source)
            if len(mine):
                self._from(source, mine, rows, step, queries, tie, draws, result)
        return result

    def _from(
        self,
        offline: bool,
        mine: np.ndarray,
        rows: np.ndarray,
        step: int,
        queries: np.ndarray,
        tie: np.ndarray,
        draws: np.ndarray,
        result: Retrieval,
    ) -> None:
        """Fills in the `result` of the queries `mine` from one of the memories."""
        if self.score == "random":
            result.item[mine] = (
                self.offline.index.draw(step, draws[mine])
                if offline
                else self.online.draw(rows[mine], step, draws[mine])
            )
            return
        if offline:
            found = self.offline.index.search(step, queries[mine], self.candidates, tie[mine])
            team = self.offline.team_return[found.item]
            individual = self.offline.individual_return[found.item]
        else:
            found = self.online.search(rows[mine], step, queries[mine], self.candidates, tie[mine])
            team = np.take_along_axis(self.online.team_return[rows[mine]], found.item, 1)
            individual = np.take_along_axis(
                self.online.individual_return[rows[mine]], found.item, 1
            )
        score = hybrid_utility(found.similarity, team, individual, self.alpha, self.score, offline)
        best = top_k(score, found.item, self.k, self.margin)
        result.item[mine] = np.take_along_axis(found.item, best, 1)
        result.similarity[mine] = np.take_along_axis(found.similarity, best, 1)
        result.score[mine] = np.take_along_axis(score, best, 1)

    def origin(self, rows: np.ndarray, retrieval: Retrieval) -> tuple[np.ndarray, np.ndarray]:
        """Team return in [0, 1], NaN for an absent one, and task of the dataset, -1 for none:
        (Q, K) each."""
        offline, item = retrieval.offline, retrieval.item
        team_return = np.empty(item.shape)
        task = np.full(item.shape, -1)
        team_return[offline] = self.offline.team_return[item[offline]]
        task[offline] = self.offline.task[item[offline]]
        if not offline.all():
            team_return[~offline] = self.online.team_return[rows[~offline, None], item[~offline]]
        return np.where(item >= 0, team_return, np.nan), np.where(item >= 0, task, -1)

    def contexts(self, rows: np.ndarray, retrieval: Retrieval) -> Trajectories:
        """The retrieved trajectories (Q, K, T, ...); an absent one has no step that was played."""
        offline, item = retrieval.offline, retrieval.item
        parts = []
        for stored, own in zip(self.offline.trajectories, self.online.trajectories, strict=True):
            part = np.empty((*item.shape, *stored.shape[1:]), stored.dtype)
            part[offline] = stored[item[offline]]
            if not offline.all():
                part[~offline] = own[rows[~offline, None], item[~offline]]
            parts.append(part)
        found = Trajectories(*parts)
        return found._replace(step_mask=found.step_mask & (item >= 0)[..., None])
