"""Keys and values of whole trajectories, which are read once and looked up afterwards."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from maicc.models.past import Past
from maicc.types import Trajectories

_BATCH = 16
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
        used, place = np.unique(slots, return_inverse=True)
        device = self.slots.visible.device
        rows = torch.from_numpy(place.reshape(ids.shape)).to(device)
        return self.slots.take(torch.from_numpy(used).to(device)).side_by_side(rows)

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
            self.slots = _larger(new, self.slots, start, n_slots)
        assert self.slots is not None
        for slots, layer in zip(self.slots.kv, new.kv, strict=True):
            for part, new_part in zip(slots, layer, strict=True):
                part[start:end] = new_part
        self.slots.visible[start:end] = new.visible
        self.slot_of.update({id_: start + i for i, id_ in enumerate(ids)})
        self.n_used = end


def _larger(like: Past, slots: Past | None, used: int, n_slots: int) -> Past:
    """Makes room for so many rows like those of a past, with the first `used` ones of `slots`."""

    def grown(part: Tensor, old: Tensor | None) -> Tensor:
        larger = part.new_zeros((n_slots, *part.shape[1:]))
        if old is not None:
            larger[:used] = old[:used]
        return larger

    kv = [
        (grown(k, slots and slots.kv[i][0]), grown(v, slots and slots.kv[i][1]))
        for i, (k, v) in enumerate(like.kv)
    ]
    return Past(kv, grown(like.visible, slots and slots.visible))
