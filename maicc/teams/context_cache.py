"""Keys and values of retrieved trajectories, computed once and looked up afterwards."""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from maicc.memory import BlendedMemory
from maicc.models.decision import DecisionTransformer
from maicc.models.past import Past
from maicc.types import Retrieval, Trajectories

_BATCH = 16
_ROW = 1_000_000  # more trajectories than an agent ever stores: ids of one row meet no other row's


class ContextCache:
    """Keys and values of independent contexts, each of which is encoded only once.

    A slot holds one trajectory's keys and values in every layer. Slots are found by the
    trajectory's id. An offline trajectory, which all rows share, has its number as id; an online
    one, which belongs to one row, has a higher id; an absent one has -1. When all slots are taken,
    the cache starts afresh.

    Args:
        gibibytes: Size of the slots' memory.
    """

    def __init__(
        self, decision: DecisionTransformer, memory: BlendedMemory, gibibytes: float
    ) -> None:
        self.decision, self.memory = decision, memory
        self.device = next(decision.parameters()).device
        self.max_bytes = int(gibibytes * 2**30)
        self.clear()

    def clear(self) -> None:
        """Gives up all slots."""
        self.slot_of: dict[int, int] = {}  # by the trajectory's id
        self.n_used = 0  # slots of forgotten trajectories count until all slots are taken
        self.keys: Tensor | None = None  # (slots, layers, heads, tokens, width / heads)
        self.values: Tensor | None = None
        self.visible: Tensor | None = None  # (slots, tokens) bool, tokens of steps that were played

    def bytes(self) -> int:
        """Memory of the keys and values of all slots."""
        tensors = [part for part in (self.keys, self.values) if part is not None]
        return sum(part.numel() * part.element_size() for part in tensors)

    def encoded(self, rows: np.ndarray, retrieval: Retrieval) -> Past:
        """Gives the contexts that the agents `rows` (Q,) have retrieved, (Q, K), as encoded."""
        item = retrieval.item
        ids = np.where(retrieval.offline[:, None], item, self._online_ids(rows[:, None], item))
        ids = np.where(item >= 0, ids, -1)  # (Q, K)
        missing = self._missing(ids)
        max_slots = self._max_slots(len(rows))
        if self.n_used + len(missing) > max_slots:
            self.clear()
            missing = self._missing(ids)
        if missing:
            contexts = self.memory.contexts(rows, retrieval)
            flat = Trajectories(*(part.reshape(-1, *part.shape[2:]) for part in contexts))
            index = np.array(list(missing.values()))
            self._encode(self.tensors(flat.take(index)), list(missing), max_slots)
        assert self.keys is not None
        assert self.values is not None
        assert self.visible is not None
        slots = torch.tensor([self.slot_of[i] for i in ids.reshape(-1).tolist()])
        slots = slots.to(self.device)  # (Q K,)
        K = ids.shape[1]
        keys, values = (
            rearrange(part[slots], "(q k) n h t d -> n q h (k t) d", k=K)
            for part in (self.keys, self.values)
        )
        visible = rearrange(self.visible[slots], "(q k) t -> q (k t)", k=K)
        return Past(list(zip(keys, values, strict=True)), visible)

    def forget(self, places: np.ndarray) -> None:
        """Forgets the online trajectory at its place (rows,) in each row: it was replaced."""
        for i in self._online_ids(np.arange(len(places)), places).tolist():
            self.slot_of.pop(i, None)

    def _online_ids(self, rows: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Ids of online trajectories; they follow those of the offline ones."""
        return len(self.memory.offline) + rows * _ROW + item

    def _missing(self, ids: np.ndarray) -> dict[int, int]:
        """Ids without a slot, and where in the flattened retrieval each stands."""
        return {id_: i for i, id_ in enumerate(ids.reshape(-1).tolist()) if id_ not in self.slot_of}

    def _max_slots(self, rows: int) -> int:
        """Number of slots that fit into `max_bytes`, but at least those of two such decisions."""
        config = self.decision.config
        T = self.memory.offline.trajectories.actions.shape[1]
        tokens = T * (1 if config.tokens == "fused" else 4)
        bytes_per_slot = 2 * config.layers * config.width * tokens * 4
        return max(self.max_bytes // bytes_per_slot, 2 * rows * config.k)

    def _encode(self, contexts: Trajectories, ids: list[int], max_slots: int) -> None:
        """Encodes trajectories (n, T, ...) with these ids (n,) into slots of their own."""
        # Batches of one size: a matrix product may round differently in a batch of another size,
        # and what is encoded again after an interruption must come out the same.
        parts = []
        for start in range(0, len(ids), _BATCH):
            index = torch.arange(start, start + _BATCH).clamp(max=len(ids) - 1)
            kv = self.decision.encode_contexts(contexts.take(index))
            parts.append(torch.stack([torch.stack(layer) for layer in kv], 2))
        keys, values = torch.cat(parts, 1)[:, : len(ids)]  # (n, layers, heads, tokens, d) each
        visible = self.decision.visible(contexts.step_mask.unsqueeze(1))  # (n, tokens)
        start, end = self.n_used, self.n_used + len(ids)
        n_slots = 0 if self.keys is None else len(self.keys)
        if end > n_slots:
            n_slots = max(min(2 * start, max_slots), end, min(1024, max_slots))
        self.keys = _place(keys, self.keys, start, n_slots)
        self.values = _place(values, self.values, start, n_slots)
        self.visible = _place(visible, self.visible, start, n_slots)
        self.slot_of.update({id_: start + i for i, id_ in enumerate(ids)})
        self.n_used = end

    def tensors(self, arrays: Trajectories) -> Trajectories:
        """Tensors of NumPy trajectories, where the decision model is."""
        return Trajectories(
            *(torch.from_numpy(np.ascontiguousarray(part)).to(self.device) for part in arrays)
        )


def _place(new: Tensor, slots: Tensor | None, start: int, n_slots: int) -> Tensor:
    """Writes `new` (n, ...) into the slots from `start` on.

    Args:
        slots: Tensor with the slots so far; None where there are none.
        n_slots: Number of slots that are needed; where there are fewer, a larger tensor is made.
    """
    if slots is None or len(slots) < n_slots:
        larger = new.new_zeros((n_slots, *new.shape[1:]))
        if slots is not None:
            larger[:start] = slots[:start]
        slots = larger
    slots[start : start + len(new)] = new
    return slots
