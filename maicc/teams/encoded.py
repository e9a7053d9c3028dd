"""Keys and values of whole trajectories, which are read once and looked up afterwards."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from maicc.models.past import Past
from maicc.types import Trajectories

_ROW = 1_000_000  # more trajectories than an agent ever stores: ids of one row meet no other row's


def own_ids(rows: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Ids of rows' own trajectories, no two of which are equal: int64 of the arrays' shape."""
    return rows * _ROW + item


class Encoded:
    """Keys and values of trajectories, each of which is encoded only once.

    A slot holds one trajectory's. Slots are found by the trajectory's id, a number that its user
    chooses. When all slots are taken, all are given up and filled anew.

    Args:
        encode: Reads trajectories (n, T, ...), tensors.
        batch: Trajectories that are read at a time; where there are fewer, some are read twice. A
            matrix product may round differently in a batch of another size, and what is encoded
            again after an interruption should come out the same.
        trajectory_bytes: Memory of the keys and values of one trajectory.
        gibibytes: Memory of all slots. On CPU those that are empty take none.
    """

    def __init__(
        self,
        encode: Callable[[Trajectories], Past],
        batch: int,
        trajectory_bytes: int,
        gibibytes: float,
    ) -> None:
        self.encode, self.batch, self.trajectory_bytes = encode, batch, trajectory_bytes
        self.max_slots = int(gibibytes * 2**30) // trajectory_bytes
        self.clear()

    def clear(self) -> None:
        """Gives up all slots."""
        self.slot_of: dict[int, int] = {}  # by the trajectory's id
        self.n_used = 0  # slots of forgotten trajectories count until all slots are taken
        self.slots: Past | None = None  # a row for each

    def bytes(self) -> int:
        """Memory of the slots that are taken."""
        return self.n_used * self.trajectory_bytes

    def joined(self, ids: np.ndarray, trajectories: Callable[[np.ndarray], Trajectories]) -> Past:
        """Gives the tokens of several trajectories for each query.

        Args:
            ids: (Q, K) int64 of the trajectories.
            trajectories: Fetches those that are to be encoded, (n, T, ...) tensors, for their
                places (n,) among the flattened ids.
        """
        missing = self._missing(ids)
        if self.slots is not None and self.n_used + len(missing) > len(self.slots.visible):
            self.clear()
            missing = self._missing(ids)
        if missing:
            read = self._read(trajectories(np.array(list(missing.values()))))
            if self.slots is None:
                self.slots = _empty(max(self.max_slots, 2 * ids.size), read)
            for number, id_ in enumerate(missing, self.n_used):
                self.slot_of[id_] = number
            _put(read, self.slots, self.n_used)
            self.n_used += len(missing)
        assert self.slots is not None
        slots = np.array([self.slot_of[i] for i in ids.reshape(-1).tolist()])
        rows = torch.from_numpy(slots.reshape(ids.shape)).to(self.slots.visible.device)
        return self.slots.joined(rows)

    def forget(self, ids: np.ndarray) -> None:
        """Forgets the trajectories with these ids (n,), which others have from now on."""
        for i in ids.tolist():
            self.slot_of.pop(i, None)

    def _missing(self, ids: np.ndarray) -> dict[int, int]:
        """Ids without a slot, and where in the flattened ids each stands."""
        return {id_: i for i, id_ in enumerate(ids.reshape(-1).tolist()) if id_ not in self.slot_of}

    @torch.no_grad()
    def _read(self, trajectories: Trajectories) -> Past:
        """Encodes trajectories (n, T, ...)."""
        n = len(trajectories.actions)
        starts = torch.arange(0, n, self.batch)
        index = (starts[:, None] + torch.arange(self.batch)).clamp(max=n - 1)
        read = [self.encode(trajectories.take(batch)) for batch in index]
        kv = [
            (torch.cat([k for k, _ in layer])[:n], torch.cat([v for _, v in layer])[:n])
            for layer in zip(*(past.kv for past in read), strict=True)
        ]
        return Past(kv, torch.cat([past.visible for past in read])[:n])


def _empty(rows: int, like: Past) -> Past:
    """Makes room for so many rows of the sizes of another past."""

    def empty(part: Tensor) -> Tensor:
        _, heads, tokens, width = part.shape  # in memory a token's heads are side by side
        return part.new_empty(rows, tokens, heads, width).transpose(1, 2)

    kv = [(empty(k), empty(v)) for k, v in like.kv]
    return Past(kv, like.visible.new_zeros(rows, like.visible.shape[1]))


def _put(rows: Past, to: Past, first: int) -> None:
    """Copies rows into another past, from its row `first` on."""
    here = slice(first, first + len(rows.visible))
    for (k, v), (to_k, to_v) in zip(rows.kv, to.kv, strict=True):
        to_k[here], to_v[here] = k, v
    to.visible[here] = rows.visible
