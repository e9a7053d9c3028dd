"""What a transformer has read already, and later tokens may look at."""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from maicc.models.batching import packing
from maicc.models.transformer import KeyValues, Positions, Transformer, append


class Past(NamedTuple):
    """What is encoded already, and may be looked at: P tokens of records and contexts.

    Some of the last places may be empty, for tokens to come, and some of the first, for contexts
    that change from step to step.
    """

    kv: KeyValues  # per layer: keys and values, each (Q, heads, P, width / heads)
    visible: Tensor  # (Q, P) bool, False where a token stands for no step
    room: int = 0  # places at the end that are empty
    front: int = 0  # places at the start that are for contexts

    def with_room(self, tokens: int, front: int = 0) -> Past:
        """Copies this with so many empty places at the end, and at the start."""
        first, more = front - self.front, tokens - self.room
        kv = [(F.pad(k, (0, 0, first, more)), F.pad(v, (0, 0, first, more))) for k, v in self.kv]
        return Past(kv, F.pad(self.visible, (first, more)), tokens, front)

    def showing(self, contexts: Past) -> Past:
        """Writes contexts into the last of the places for them, and gives a view from there on.

        What is then read into the view is in this past too, but for its `room`.
        """
        first = self.front - contexts.visible.shape[1]
        assert first >= 0
        assert self.room
        for (k, v), (context_k, context_v) in zip(self.kv, contexts.kv, strict=True):
            k[:, :, first : self.front], v[:, :, first : self.front] = context_k, context_v
        self.visible[:, first : self.front] = contexts.visible
        kv = [(k[:, :, first:], v[:, :, first:]) for k, v in self.kv]
        return Past(kv, self.visible[:, first:], self.room)

    def extend(
        self, transformer: Transformer, x: Tensor, positions: Positions | None
    ) -> tuple[Tensor, Past]:
        """Reads new tokens (Q, L, D) that see these and, causally, each other.

        Returns:
            Outputs at `positions`, and the past with the new tokens behind it. Where there is room,
            they are written to it: this past must not be used again, and no gradient flows.
        """
        L, P = x.shape[1], self.visible.shape[1] - self.room
        if not self.room:
            y, kv = transformer.extend(x, self.kv, self.visible, positions)
            return y, Past(kv, F.pad(self.visible, (0, L), value=True))
        y, _ = transformer.extend(x, self.kv, self.visible[:, :P], positions, at=P)
        self.visible[:, P : P + L] = True
        return y, self._replace(room=self.room - L)

    def take(self, rows: Tensor) -> Past:
        """Picks these rows."""
        kv = [(k.index_select(0, rows), v.index_select(0, rows)) for k, v in self.kv]
        return Past(kv, self.visible[rows], self.room, self.front)

    def joined(self, rows: Tensor) -> Past:
        """Joins the tokens of several rows each, without places that are empty in all.

        Args:
            rows: (S, E) int64, the rows that are joined; -1 is none.

        Returns:
            S rows of at most E * P tokens.
        """
        P = self.visible.shape[1]
        visible = (self.visible[rows] & (rows >= 0).unsqueeze(-1)).flatten(1)
        place = rows.clamp(min=0).unsqueeze(-1) * P + torch.arange(P, device=rows.device)
        order = packing(visible)
        place = place.flatten(1).gather(1, order)  # (S, p) of (Q * P)

        def picked(x: Tensor) -> Tensor:
            tokens = rearrange(x, "q h p d -> (q p) h d").index_select(0, place.flatten())
            return rearrange(tokens, "(s p) h d -> s h p d", p=place.shape[1])

        return Past([(picked(k), picked(v)) for k, v in self.kv], visible.gather(1, order))

    def with_rows_of(self, others: Past) -> Past:
        """Adds the rows of others below these; who sees fewer tokens gets some that are hidden."""
        assert not self.front
        assert not others.front
        room = max(self.room, others.room)
        pasts = [past if past.room == room else past.with_room(room) for past in (self, others)]
        P = max(past.visible.shape[1] for past in pasts)
        parts = []
        for past in pasts:
            fewer = P - past.visible.shape[1]
            kv = [(F.pad(k, (0, 0, fewer, 0)), F.pad(v, (0, 0, fewer, 0))) for k, v in past.kv]
            parts.append(Past(kv, F.pad(past.visible, (fewer, 0))))
        kv = [
            (torch.cat([k, other_k]), torch.cat([v, other_v]))
            for (k, v), (other_k, other_v) in zip(parts[0].kv, parts[1].kv, strict=True)
        ]
        return Past(kv, torch.cat([parts[0].visible, parts[1].visible]), room)

    def latest(self, tokens: int) -> Past:
        """Picks the last so many tokens."""
        assert not self.room
        kv = [(k[:, :, -tokens:], v[:, :, -tokens:]) for k, v in self.kv]
        return Past(kv, self.visible[:, -tokens:])

    def after(self, first: Past | None) -> Past:
        """Puts the tokens of others before these."""
        if first is None:
            return self
        assert not first.room
        return Past(append(first.kv, self.kv), torch.cat([first.visible, self.visible], 1))


def read_on(
    transformer: Transformer, x: Tensor, past: Past | None, positions: Positions | None
) -> tuple[Tensor, Past]:
    """Reads tokens (Q, L, D) that see the past, if there is any, and causally each other.

    Returns:
        Outputs at `positions`, and the past with these tokens behind it, see `Past.extend`.
    """
    if past is not None:
        return past.extend(transformer, x, positions)
    y, kv = transformer(x, positions=positions)
    return y, Past(kv, torch.ones(*x.shape[:2], dtype=torch.bool, device=x.device))
