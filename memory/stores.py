"""Offline memory, which is the dataset, and online memory, which is each agent's own episodes."""

from __future__ import annotations

import copy

import numpy as np

from maicc.memory.index import KeyIndex
from maicc.types import Candidates, Trajectories

SAME = 5e-4  # observations that differ by less are the same


def best_and_latest(utility: np.ndarray, n: int) -> np.ndarray:
    """Chooses trajectories that make up a record: what was best, and what happened last.

    Up to n trajectories are all shown. Of more, half are the latest ones, for what failed, and half
    are those of the rest with the highest utility, the latest first among equals.

    Args:
        utility: (rows, trajectories), the oldest trajectory first.

    Returns:
        Places (rows, C) in that order, ascending, with C at most n.
    """
    rows, count = utility.shape
    if count <= n:
        return np.tile(np.arange(count), (rows, 1))
    older = count - n // 2
    rank = np.lexsort((np.tile(-np.arange(older), (rows, 1)), -utility[:, :older]))
    latest = np.tile(np.arange(older, count), (rows, 1))
    return np.concatenate([np.sort(rank[:, : n - n // 2], axis=1), latest], 1)


class OfflineMemory:
    """Trajectories of the dataset, shared by all agents and never changed.

    Args:
        index: Keys of the trajectories, per step; None where nothing is looked up.
        trajectories: (M, T, ...).
        team_return: (M,) in [0, 1] on the family's scale.
        individual_return: (M,) predicted, times the number of agents, on the same scale.
        task: (M,) number of the dataset's task.
        episode: (M,) number of the dataset's episode.
        agent: (M,) which of the episode's agents.
    """

    def __init__(
        self,
        index: KeyIndex | None,
        trajectories: Trajectories,
        team_return: np.ndarray,
        individual_return: np.ndarray,
        task: np.ndarray,
        episode: np.ndarray,
        agent: np.ndarray,
    ) -> None:
        self.index, self.trajectories = index, trajectories
        self.team_return, self.individual_return = team_return, individual_return
        self.task, self.episode, self.agent = task, episode, agent

    def __len__(self) -> int:
        return len(self.team_return)


class OnlineMemory:
    """Trajectories of each agent's own episodes. Row r is one agent of one run; rows never mix.

    Search is exact, since a row holds few trajectories: one for each episode played, or `capacity`.

    Args:
        rows: Agents.
        steps: Longest trajectory.
        width: Width of a key.
        observation_size: Numbers of an observation.
        capacity: Trajectories that a row keeps at most, 0 for all of them. In a full row the
            trajectory with the lowest team return makes room, of equal ones the oldest.
    """

    def __init__(
        self, rows: int, steps: int, width: int, observation_size: int, capacity: int = 0
    ) -> None:
        self.count = 0  # trajectories that each row holds
        self.history = np.zeros((rows, 0), np.float32)  # team return of every episode played
        self._steps, self._width, self._observation_size = steps, width, observation_size
        self.capacity = capacity
        self._allocate(rows, 0)

    def _allocate(self, rows: int, slots: int) -> None:
        """Makes empty arrays with so many slots for trajectories in each row."""
        T, shape = self._steps, (rows, slots)
        self.keys = np.zeros((*shape, T, self._width), np.float32)
        self.trajectories = Trajectories.blank((*shape, T), self._observation_size)
        self.team_return = np.zeros(shape, np.float32)
        self.individual_return = np.zeros(shape, np.float32)
        self.order = np.zeros(shape)  # random rank of each trajectory, for ties
        self.born = np.zeros(shape, np.int64)  # number of the episode it was played in

    def _arrays(self) -> dict[str, np.ndarray]:
        """All arrays (rows, slots, ...), by their names."""
        names = ("keys", "team_return", "individual_return", "order", "born")
        return {**{name: getattr(self, name) for name in names}, **self.trajectories._asdict()}

    def store(
        self,
        keys: np.ndarray,
        trajectories: Trajectories,
        team_return: np.ndarray,
        individual_return: np.ndarray,
        order: np.ndarray,
    ) -> np.ndarray:
        """Stores one more trajectory in every row.

        Args:
            keys: (rows, T, D).
            trajectories: (rows, T, ...).
            team_return: (rows,) on the family's scale, which it may leave.
            individual_return: (rows,) predicted, times the number of agents, on the same scale.
            order: (rows,) in [0, 1), random, for ties.

        Returns:
            (rows,) the slot of each, where another trajectory may have made room.
        """
        # first: an interrupted bounded memory is then known to be ahead of its saved state
        self.history = np.concatenate([self.history, team_return[:, None]], 1)
        n_slots = self.keys.shape[1]
        full = self.capacity and self.count == self.capacity
        if not full and self.count >= n_slots:
            self._grow()
        rows = len(self.history)
        lowest = np.lexsort((self.born, self.team_return))[:, 0] if full else None
        slot = np.full(rows, self.count) if lowest is None else lowest
        index = (np.arange(rows), slot)
        self.keys[index] = keys
        for array, new in zip(self.trajectories, trajectories, strict=True):
            array[index] = new
        self.team_return[index] = team_return
        self.individual_return[index] = individual_return
        self.order[index] = order
        self.born[index] = self.history.shape[1]
        if not full:
            self.count += 1  # last: until then the trajectory does not count
        return slot

    def _grow(self) -> None:
        """Doubles the slots, up to the capacity. An interruption finds all of it done or none."""
        n_slots = self.keys.shape[1]
        n_grown = max(16, 2 * n_slots)
        larger = copy.copy(self)
        larger._allocate(
            len(self.history), min(n_grown, self.capacity) if self.capacity else n_grown
        )
        for name, array in larger._arrays().items():
            array[:, :n_slots] = self._arrays()[name]
        self.__dict__.update(larger.__dict__)

    def played(self, rows: np.ndarray, step: int) -> np.ndarray:
        """Trajectories of these rows (Q,) that reached `step`: (Q, C) bool, C the count."""
        return self.trajectories.step_mask[rows, : self.count, step]

    def choose(self, n: int, alpha: float) -> np.ndarray:
        """Chooses which of its trajectories each row shows as its record, as `best_and_latest`.

        Args:
            alpha: Weight of the team return against the predicted individual return.

        Returns:
            Slots (rows, C), where C is n, or fewer while there are fewer. The oldest come first.
        """
        by_age = np.argsort(self.born[:, : self.count], axis=1, kind="stable")
        utility = alpha * self.team_return + (1 - alpha) * self.individual_return
        chosen = best_and_latest(np.take_along_axis(utility[:, : self.count], by_age, 1), n)
        return np.take_along_axis(by_age, chosen, 1)

    def latest(self, least: np.ndarray, n: int) -> np.ndarray:
        """Finds each row's latest trajectories with at least a team return: slots (rows, n).

        Args:
            least: (rows,) on the family's scale.

        Returns:
            The latest first; -1 where there are fewer.
        """
        worth = self.team_return[:, : self.count] >= least[:, None]
        born = np.where(worth, self.born[:, : self.count], 0)  # the first was born in episode 1
        slots = np.argsort(-born, axis=1, kind="stable")[:, :n]
        slots = np.where(np.take_along_axis(born, slots, 1) > 0, slots, -1)
        return np.pad(slots, ((0, 0), (0, n - slots.shape[1])), constant_values=-1)

    def repeat(
        self, rows: np.ndarray, slots: np.ndarray, step: int, observations: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Finds what these rows (Q,) did in the same situation.

        Args:
            slots: (Q, n) trajectories that are looked through, the first match counts; -1 is none.
            step: The same step of an episode.
            observations: (Q, O), the same to within `SAME`.

        Returns:
            Actions (Q,) and the slots (Q,) they are from; -1 in both where a row was never in it.
        """
        never = np.full(len(rows), -1)
        if slots.shape[1] == 0 or self.keys.shape[1] == 0:
            return never, never
        seen, row = self.trajectories, rows[:, None]
        near = np.abs(seen.observations[row, slots, step] - observations[:, None]).max(-1) < SAME
        same = near & seen.step_mask[row, slots, step] & (slots >= 0)
        first = same.argmax(1)
        slot = np.take_along_axis(slots, first[:, None], 1)[:, 0]
        found = same.any(1)
        return np.where(found, seen.actions[rows, slot, step], -1), np.where(found, slot, -1)

    def search(
        self, rows: np.ndarray, step: int, queries: np.ndarray, n: int, tie: np.ndarray
    ) -> Candidates:
        """Finds candidates like `KeyIndex.search`, for query q in row `rows[q]` only.

        Similarities that agree to 4 decimals count as equal, and `tie` decides among them.
        """
        played = self.played(rows, step)  # (Q, C)
        C = played.shape[1]
        similarity = np.einsum("qcd,qd->qc", self.keys[rows, :C, step], queries)
        tie_rank = (self.order[rows, :C] + tie[:, None]) % 1.0
        rounded = np.where(played, np.round(similarity, 4), -2.0)
        best = np.lexsort((tie_rank, -rounded))[:, :n]
        exists = np.take_along_axis(played, best, 1)
        pad = ((0, 0), (0, n - best.shape[1]))
        return Candidates(
            np.pad(np.where(exists, best, -1), pad, constant_values=-1),
            np.pad(np.take_along_axis(similarity, best, 1), pad, constant_values=-1.0),
        )

    def draw(self, rows: np.ndarray, step: int, draws: np.ndarray) -> np.ndarray:
        """Draws items like `KeyIndex.draw`, for query q in row `rows[q]` only.

        None is drawn twice for a query; -1 where too few reached `step`.
        """
        played = self.played(rows, step)  # (Q, C)
        order = self.order[rows, : played.shape[1]]
        rank = np.where(played, (order * 997 + draws[:, :1] * 991) % 1.0, 2.0)
        item = np.argsort(rank, axis=1)[:, : draws.shape[1]]
        item = np.where(np.take_along_axis(played, item, 1), item, -1)
        return np.pad(item, ((0, 0), (0, draws.shape[1] - item.shape[1])), constant_values=-1)

    def state(self, episodes: int) -> dict[str, np.ndarray]:
        """Contents of each row after so many episodes, as plain arrays.

        Raises:
            ValueError: the memory is bounded and has stored more episodes since.
        """
        if self.capacity and episodes < self.history.shape[1]:
            raise ValueError("a bounded memory can't tell what it held before")
        arrays = {name: array[:, :episodes] for name, array in self._arrays().items()}
        return {
            "count": np.array(min(self.count, episodes)),
            "history": self.history[:, :episodes],
            **arrays,
        }

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Takes over what `state` gave."""
        self.count, self.history = int(state["count"]), state["history"].copy()
        self._allocate(len(self.history), state["keys"].shape[1])
        for name, array in self._arrays().items():
            array[:] = state[name]
