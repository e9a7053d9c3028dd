"""How far an agent still believes in the dataset: what came of following it, so far."""

from __future__ import annotations

import numpy as np


class Trust:
    """Each agent's trust in each of the dataset's tasks; row r is one agent, rows never mix.

    An episode in which an agent looked at trajectories of a task ends with some return. Over its
    episodes so far, each counted as far as it looked at them, the agent's trust in the task is

        (prior + what was returned) / (prior + what they promised), at most 1.

    So a task that led nowhere makes room for others, and the dataset's tasks are tried in turn.

    Args:
        rows: Agents.
        tasks: Tasks in the dataset.
        prior: Episodes, kept promises all of them, that the trust begins with; infinite: nothing
            is ever doubted.
    """

    def __init__(self, rows: int, tasks: int, prior: float = np.inf) -> None:
        self.prior = prior
        self._promised = np.zeros((rows, 0, tasks), np.float32)  # by episode, in [0, 1]
        self._returned = np.zeros((rows, 0, tasks), np.float32)
        self.begin()
        self._sum_up()

    def begin(self) -> None:
        """An episode begins."""
        rows, _, tasks = self._promised.shape
        self._shown = np.zeros(rows)  # trajectories, the agent's own too
        self._of_task = np.zeros((rows, tasks))
        self._promise = np.zeros((rows, tasks))

    def follow(self, rows: np.ndarray, team_return: np.ndarray, task: np.ndarray) -> None:
        """What agents `rows` (Q,) are shown: team returns, NaN for none, and tasks (Q, K).

        Task -1 is not the dataset's.
        """
        np.add.at(self._shown, rows, np.isfinite(team_return).sum(1))
        query, place = np.nonzero(task >= 0)
        at = (rows[query], task[query, place])
        np.add.at(self._of_task, at, 1)
        np.add.at(self._promise, at, team_return[query, place])

    def settle(self, team_return: np.ndarray) -> None:
        """The episode ended with these team returns (rows,) in [0, 1]."""
        shown = np.maximum(self._shown, 1)[:, None]
        for kept, new in (
            ("_promised", self._promise / shown),
            ("_returned", self._of_task / shown * team_return[:, None]),
        ):
            new = new[:, None].astype(np.float32)
            setattr(self, kept, np.concatenate([getattr(self, kept), new], 1))
        self._sum_up()

    def of(self, rows: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Of agents (Q,) in tasks (Q, C): (Q, C) in [0, 1]."""
        return self._now[rows[:, None], task]

    def _sum_up(self) -> None:
        returned, promised = (x.sum(1, dtype=float) for x in (self._returned, self._promised))
        self._now = np.ones_like(promised)
        if self.prior < np.inf:
            doubted = promised > returned
            kept = (self.prior + returned[doubted]) / (self.prior + promised[doubted])
            self._now[doubted] = kept

    def state(self, episodes: int) -> dict[str, np.ndarray]:
        """What is known after so many episodes, as plain arrays."""
        return {
            "promised": self._promised[:, :episodes],
            "returned": self._returned[:, :episodes],
        }

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        self._promised, self._returned = state["promised"].copy(), state["returned"].copy()
        self.begin()
        self._sum_up()
