"""Keys and values of retrieved trajectories, computed once and looked up afterwards."""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from maicc.memory import BlendedMemory
from maicc.models.decision import DecisionTransformer
from maicc.models.observations import EncodedObservations
from maicc.types import Retrieval, Trajectories

_BATCH = 16


class ContextCache:
    """Decides on retrieved contexts; with independent contexts, each is encoded once.

    A slot holds one trajectory's keys and values in every layer. When all slots are taken, the
    cache starts afresh.

    Args:
        gibibytes: Room for the slots.
    """

    def __init__(
        self, decision: DecisionTransformer, memory: BlendedMemory, gibibytes: float
    ) -> None:
        self.decision, self.memory = decision, memory
        self.room = int(gibibytes * 2**30)
        self.clear()

    def clear(self) -> None:
        self.slot_of: dict[int, int] = {}
        self.used = 0  # slots; those of trajectories that were forgotten stay until all are taken
        self.keys: Tensor | None = None  # (slots, layers, heads, tokens, width / heads)
        self.values: Tensor | None = None

    def bytes(self) -> int:
        """Memory of the slots that are held."""
        held = [part for part in (self.keys, self.values) if part is not None]
        return sum(part.numel() * part.element_size() for part in held)

    def decide(
        self, current: Trajectories, seen: EncodedObservations, rows: np.ndarray, found: Retrieval
    ) -> Tensor:
        """Logits of the last step (Q, A), equal to those of `decision(current, contexts, seen)`."""
        if self.decision.config.context == "concatenated":
            contexts = self._tensors(self.memory.contexts(rows, found), current)
            return self.decision(current, contexts, seen)[:, -1]
        own = self._own(rows[:, None], found.item)
        names = np.where(found.offline[:, None], found.item, own)
        names = np.where(found.item >= 0, names, -1)
        missing = self._missing(names)
        slots = self._slots(current)
        if self.used + len(missing) > slots:
            self.clear()
            missing = self._missing(names)
        if missing:
            contexts = self.memory.contexts(rows, found)
            flat = Trajectories(*(part.reshape(-1, *part.shape[2:]) for part in contexts))
            at = np.array(list(missing.values()))
            self._encode(self._tensors(flat.take(at), current), list(missing), slots)
        held = np.array([self.slot_of[name] for name in names.reshape(-1).tolist()])
        index = torch.from_numpy(held).to(current.actions.device)
        K = names.shape[1]
        keys, values = (
            rearrange(kept[index], "(q k) n h t d -> n q h (k t) d", k=K)
            for kept in (self.keys, self.values)
        )
        visible = rearrange(self.seen[index], "(q k) t -> q (k t)", k=K)
        past = list(zip(keys, values, strict=True))
        return self.decision.decide(current, seen, past, visible, last=True)[:, 0]

    def forget(self, places: np.ndarray) -> None:
        """Each row's online trajectory at its place (rows,) is another one now."""
        for name in self._own(np.arange(len(places)), places).tolist():
            self.slot_of.pop(name, None)

    def _own(self, rows: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Numbers of online trajectories, which are a row's own, behind the offline ones, which
        all rows share."""
        return len(self.memory.offline) + rows * 1_000_000 + item

    def _missing(self, names: np.ndarray) -> dict[int, int]:
        """Trajectories without a slot, and where in the flattened retrieval each stands."""
        flat = names.reshape(-1).tolist()
        return {name: i for i, name in enumerate(flat) if name not in self.slot_of}

    def _slots(self, current: Trajectories) -> int:
        config = self.decision.config
        T = self.memory.offline.trajectories.actions.shape[1]
        tokens = T * (1 if config.tokens == "fused" else 4)
        per_slot = 2 * config.layers * config.width * tokens * 4
        return max(self.room // per_slot, 2 * current.actions.shape[0] * config.k)

    def _encode(self, contexts: Trajectories, names: list[int], slots: int) -> None:
        # Batches of one size: a matrix product may round differently in a batch of another size,
        # and what is encoded again after an interruption must come out the same.
        parts = []
        for start in range(0, len(names), _BATCH):
            index = torch.arange(start, start + _BATCH).clamp(max=len(names) - 1)
            kept = self.decision.encode_contexts(contexts.take(index))
            parts.append(torch.stack([torch.stack(layer) for layer in kept], 2))
        keys, values = torch.cat(parts, 1)[:, : len(names)]
        seen = self.decision.visible(contexts.step_mask.unsqueeze(1))
        start = self.used
        if self.keys is None or start + len(names) > len(self.keys):
            grown = max(min(2 * start, slots), start + len(names), min(1024, slots))
            for name, new in (("keys", keys), ("values", values), ("seen", seen)):
                room = new.new_zeros((grown, *new.shape[1:]))
                if start:
                    room[:start] = getattr(self, name)[:start]
                setattr(self, name, room)
        end = start + len(names)
        self.keys[start:end], self.values[start:end], self.seen[start:end] = keys, values, seen
        self.slot_of.update({name: start + i for i, name in enumerate(names)})
        self.used = end

    @staticmethod
    def _tensors(arrays: Trajectories, like: Trajectories) -> Trajectories:
        device = like.actions.device
        return Trajectories(
            *(torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in arrays)
        )
