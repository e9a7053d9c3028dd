"""Keys and values of whole trajectories, which are read once and looked up afterwards."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from maicc.models.past import Past
from maicc.types import Trajectories

_BATCH = 32
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
        tokens: Most tokens of a trajectory.
        token_bytes: Memory of the keys and values of a token.
        gibibytes: Memory of all slots.
    """

    def __init__(
        self,
        encode: Callable[[Trajectories], Past],
        tokens: int,
        token_bytes: int,
        gibibytes: float,
    ) -> None:
        self.encode, self.tokens = encode, tokens
        self.max_slots = int(gibibytes * 2**30) // (tokens * token_bytes)
        self.clear()

    def clear(self) -> None:
        """Gives up all slots."""
        self.slot_of: dict[int, int] = {}  # by the trajectory's id
        self.n_used = 0  # slots of forgotten trajectories count until all slots are taken
        self.slots: Past | None = None  # a row for each

    def bytes(self) -> int:
        """Memory of the keys and values of all slots."""
        kv = [] if self.slots is None else self.slots.kv
        return sum(part.numel() * part.element_size() for layer in kv for part in layer)

    def side_by_side(
        self, ids: np.ndarray, trajectories: Callable[[np.ndarray], Trajectories]
    ) -> Past:
        """Gives the tokens of several trajectories for each query.

        Args:
            ids: (Q, K) int64 of the trajectories.
            trajectories: Fetches those that are to be encoded, (n, T, ...) tensors, for their
                places (n,) among the flattened ids.
        """
        missing = self._missing(ids)
        max_slots = max(self.max_slots, 2 * ids.size)
        if self.n_used + len(missing) > max_slots:
            self.clear()
            missing = self._missing(ids)
        if missing:
            new = self._read(trajectories(np.array(list(missing.values()))))
            self._store(new, list(missing), max_slots)
        assert self.slots is not None
        slots = np.array([self.slot_of[i] for i in ids.reshape(-1).tolist()])
        rows = torch.from_numpy(slots.reshape(ids.shape)).to(self.slots.visible.device)
        return self.slots.side_by_side(rows)

    def forget(self, ids: np.ndarray) -> None:
        """Forgets the trajectories with these ids (n,), which others have from now on."""
        for i in ids.tolist():
            self.slot_of.pop(i, None)

    def _missing(self, ids: np.ndarray) -> dict[int, int]:
        """Ids without a slot, and where in the flattened ids each stands."""
        return {id_: i for i, id_ in enumerate(ids.reshape(-1).tolist()) if id_ not in self.slot_of}

    @torch.no_grad()
    def _read(self, trajectories: Trajectories) -> Past:
        """Encodes trajectories (n, T, ...).

        All batches have one size: a matrix product may round differently in a batch of another
        size, and what is encoded again after an interruption must come out the same.
        """
        n = len(trajectories.actions)
        starts = torch.arange(0, n, _BATCH)
        index = (starts[:, None] + torch.arange(_BATCH)).clamp(max=n - 1)
        read = [self.encode(trajectories.take(batch)) for batch in index]
        kv = [
            (torch.cat([k for k, _ in layer])[:n], torch.cat([v for _, v in layer])[:n])
            for layer in zip(*(past.kv for past in read), strict=True)
        ]
        return Past(kv, torch.cat([past.visible for past in read])[:n])

    def _store(self, new: Past, ids: list[int], max_slots: int) -> None:
        """Puts trajectories with these ids (n,) into slots of their own."""
        start, end = self.n_used, self.n_used + len(ids)
        n_slots = 0 if self.slots is None else len(self.slots.visible)
        if end > n_slots:
            n_slots = max(min(2 * start, max_slots), end, min(1024, max_slots))
            larger = _empty(new, n_slots)
            if self.slots is not None:
                _copy(self.slots, larger, 0, start)
            self.slots = larger
        assert self.slots is not None
        _copy(new, self.slots, start, end)
        self.slot_of.update({id_: start + i for i, id_ in enumerate(ids)})
        self.n_used = end


def _empty(like: Past, rows: int) -> Past:
    """Makes so many empty rows of the sizes of another past."""

    def zeros(part: Tensor) -> Tensor:
        _, heads, tokens, width = part.shape  # in memory a token's heads are side by side
        return part.new_zeros(rows, tokens, heads, width).transpose(1, 2)

    kv = [(zeros(k), zeros(v)) for k, v in like.kv]
    return Past(kv, like.visible.new_zeros(rows, like.visible.shape[1]))


def _copy(source: Past, to: Past, start: int, end: int) -> None:
    """Copies the first rows of a past into the rows from `start` to `end` of another."""
    for from_layer, to_layer in zip(source.kv, to.kv, strict=True):
        for from_part, to_part in zip(from_layer, to_layer, strict=True):
            to_part[start:end] = from_part[: end - start]
    to.visible[start:end] = source.visible[: end - start]
