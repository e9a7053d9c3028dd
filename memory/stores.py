"""Offline memory, the dataset, and online memory, what each agent has lived through itself."""

from __future__ import annotations

import copy

import numpy as np

from maicc.memory.index import KeyIndex
from maicc.types import Candidates, Trajectories


class OfflineMemory:
    """Trajectories of the dataset, shared by all agents and never changed.

    Args:
        index: Keys of the trajectories, per step.
        trajectories: (M, T, ...).
        team_return: (M,) in [0, 1] on the family's scale.
        individual_return: (M,) predicted, times the number of agents, on the same scale.
        task: (M,) number of the dataset's task.
    """

    def __init__(
        self,
        index: KeyIndex,
        trajectories: Trajectories,
        team_return: np.ndarray,
        individual_return: np.ndarray,
        task: np.ndarray,
    ) -> None:
        self.index, self.trajectories, self.task = index, trajectories, task
        self.team_return, self.individual_return = team_return, individual_return

    def __len__(self) -> int:
        return len(self.team_return)


class OnlineMemory:
    """What each agent of each run has lived through itself. Row r is one agent; rows never mix.

    Search is exact: a row holds as many trajectories as it played episodes, or `most` of them.

    Args:
        rows: Agents.
        steps: Most steps of a trajectory.
        width: Of a key.
        observation_size: Numbers of an observation.
        most: Trajectories that a row keeps; of more, the one with the lowest team return gives way,
            the oldest first. 0 keeps all.
    """

    def __init__(
        self, rows: int, steps: int, width: int, observation_size: int, most: int = 0
    ) -> None:
        self.count = np.zeros(rows, np.int64)  # of the trajectories that are kept
        self.history = np.zeros((rows, 0), np.float32)  # team return of every episode lived through
        self._steps, self._width, self._observation_size = steps, width, observation_size
        self.most = most
        self._allocate(rows, 0)

    def _allocate(self, rows: int, room: int) -> None:
        T, shape = self._steps, (rows, room)
        self.keys = np.zeros((*shape, T, self._width), np.float32)
        self.trajectories = Trajectories(
            observations=np.zeros((*shape, T, self._observation_size), np.float32),
            actions=np.zeros((*shape, T), np.int64),
            rewards=np.zeros((*shape, T), np.float32),
            done=np.zeros((*shape, T), np.float32),
            completed=np.zeros((*shape, T), np.float32),
            return_to_go=np.zeros((*shape, T), np.float32),
            step_mask=np.zeros((*shape, T), bool),
        )
        self.team_return = np.zeros(shape, np.float32)
        self.individual_return = np.zeros(shape, np.float32)
        self.order = np.zeros(shape)  # random rank of each trajectory, for ties
        self.born = np.zeros(shape, np.int64)  # the episode it was lived in

    def _arrays(self) -> dict[str, np.ndarray]:
        own = ("keys", "team_return", "individual_return", "order", "born")
        return {**{name: getattr(self, name) for name in own}, **self.trajectories._asdict()}

    def store(
        self,
        keys: np.ndarray,
        trajectories: Trajectories,
        team_return: np.ndarray,
        individual_return: np.ndarray,
        order: np.ndarray,
    ) -> np.ndarray:
        """One more trajectory for every row: keys (rows, T, D), trajectories (rows, T, ...).

        Returns:
            (rows,) the place of each, where another may have made room.
        """
        # first: an interrupted bounded memory is then known to be ahead of what was kept
        self.history = np.concatenate([self.history, team_return[:, None]], 1)
        rows, room = np.arange(len(self.count)), self.keys.shape[1]
        full = self.most and self.count[0] == self.most
        if not full and self.count.max() >= room:
            grown = copy.copy(self)
            wanted = max(16, 2 * room)
            grown._allocate(len(rows), min(wanted, self.most) if self.most else wanted)
            for name, array in grown._arrays().items():
                array[:, :room] = self._arrays()[name]
            self.__dict__.update(grown.__dict__)  # at once: an interruption finds all or nothing
        place = np.lexsort((self.born, self.team_return))[:, 0] if full else self.count.copy()
        at = (rows, place)
        self.keys[at] = keys
        for mine, new in zip(self.trajectories, trajectories, strict=True):
            mine[at] = new
        self.team_return[at] = team_return
        self.individual_return[at] = individual_return
        self.order[at] = order
        self.born[at] = self.history.shape[1]
        if not full:
            self.count += 1  # last: until then the trajectory is not there
        return place

    def search(
        self, rows: np.ndarray, step: int, queries: np.ndarray, n: int, tie: np.ndarray
    ) -> Candidates:
        """Like `KeyIndex.search`, query q among the trajectories of `rows[q]` only."""
        used = int(self.count.max(initial=0))
        similarity = np.einsum("rcd,rd->rc", self.keys[rows, :used, step], queries)
        played = self.trajectories.step_mask[rows, :used, step]
        rank = (self.order[rows, :used] + tie[:, None]) % 1.0
        near = np.where(played, np.round(similarity, 4), -2.0)
        best = np.lexsort((rank, -near))[:, :n]
        found = np.take_along_axis(played, best, 1)
        pad = ((0, 0), (0, n - best.shape[1]))
        return Candidates(
            np.pad(np.where(found, best, -1), pad, constant_values=-1),
            np.pad(np.take_along_axis(similarity, best, 1), pad, constant_values=-1.0),
        )

    def draw(self, rows: np.ndarray, step: int, draws: np.ndarray) -> np.ndarray:
        """Like `KeyIndex.draw`, without repetition; -1 where too few reached `step`."""
        used = int(self.count.max(initial=0))
        played = self.trajectories.step_mask[rows, :used, step]
        rank = np.where(played, (self.order[rows, :used] * 997 + draws[:, :1] * 991) % 1.0, 2.0)
        chosen = np.argsort(rank, axis=1)[:, : draws.shape[1]]
        chosen = np.where(np.take_along_axis(played, chosen, 1), chosen, -1)
        return np.pad(chosen, ((0, 0), (0, draws.shape[1] - chosen.shape[1])), constant_values=-1)

    def state(self, episodes: int) -> dict[str, np.ndarray]:
        """What each row had after so many episodes, as plain arrays.

        Raises:
            ValueError: the memory is bounded and has lived on since.
        """
        if self.most and episodes < self.history.shape[1]:
            raise ValueError("a bounded memory can't tell what it held before")
        kept = {name: array[:, :episodes] for name, array in self._arrays().items()}
        return {
            "count": np.minimum(self.count, episodes),
            "history": self.history[:, :episodes],
            **kept,
        }

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        self.count, self.history = state["count"].copy(), state["history"].copy()
        self._allocate(len(self.count), state["keys"].shape[1])
        for name, array in self._arrays().items():
            array[:] = state[name]
