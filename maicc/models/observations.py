"""Reading observations: flat, or by entities.

`flat` reads an observation as one padded vector (METHOD.md, section 2). `entities` reads it by an
`ObsLayout`, with a transformer over the agent and those it sees. An attack then means the one it is
aimed at in a team of any size, and what was learnt of one enemy holds for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maicc.config import check_encoder
from maicc.models.batching import map_by_length
from maicc.models.transformer import Transformer, take_tokens
from maicc.types import ObsLayout, Spec

HIDDEN = 64
_HEADS = 4


class EncodedObservations(NamedTuple):
    """Observations that have been read."""

    embedding: Tensor  # (..., D) all of it
    attack_targets: (
        Tensor  # (..., M, HIDDEN) of each attack, zero where none is seen; M = 0 where read flat
    )

    def target(self, which: Tensor) -> Tensor:
        """One target each, (...,) -> (..., HIDDEN); zero where it is below 0."""
        if not self.attack_targets.shape[-2]:
            return self.attack_targets.new_zeros(*which.shape, HIDDEN)
        at = which.clamp(min=0)[..., None, None].expand(*which.shape, 1, HIDDEN)
        return self.attack_targets.gather(-2, at).squeeze(-2) * (which >= 0).unsqueeze(-1)


class FlatObservation(nn.Module):
    """An MLP [64, 64] on the whole vector."""

    def __init__(self, spec: Spec, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(spec.observation_size, HIDDEN), nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN), nn.ReLU(),
            nn.Linear(HIDDEN, width),
        )  # fmt: skip

    def forward(self, observations: Tensor) -> EncodedObservations:
        """(..., O) read as one vector."""
        here = self.layers(observations)
        return EncodedObservations(here, here.new_zeros(*here.shape[:-1], 0, HIDDEN))


class Entities(NamedTuple):
    """An observation taken apart. Those who are out of sight or dead are all zero."""

    own: Tensor  # (..., F)
    allies: Tensor  # (..., A, F)
    enemies: Tensor  # (..., M, F)


def split_entities(layout: ObsLayout, observations: Tensor) -> Entities:
    """(..., O) -> its entities."""

    def group(start: int, count: int, size: int) -> Tensor:
        return observations[..., start : start + count * size].unflatten(-1, (count, size))

    own = group(layout.own[0], 1, layout.own[1]).squeeze(-2)
    return Entities(own, group(*layout.allies), group(*layout.enemies))


def attack_targets(
    layout: ObsLayout, observations: Tensor, allies: Tensor, enemies: Tensor
) -> Tensor:
    """Whom each attack of agents that see (B, O) is aimed at: of allies (B, A, D) and enemies
    (B, M, D) -> (B, M, D).
    """
    if layout.heals is None:
        return enemies
    heals = observations[:, layout.own[0] + layout.heals, None, None] > 0
    return torch.where(heals, F.pad(allies, (0, 0, 0, enemies.shape[1] - allies.shape[1])), enemies)


def is_visible(entities: Tensor) -> Tensor:
    """Who is seen: (..., A, F) -> (..., A) bool."""
    return (entities != 0).any(-1)


def deduplicate_blank(observations: Tensor) -> tuple[Tensor, Tensor]:
    """Observations (..., O) -> those that show something behind one that shows nothing, (R, O), and
    which of them each is, (...,).

    Those of steps that were not played, and of the dead, show nothing: they need be read only once.
    """
    rows = observations.reshape(-1, observations.shape[-1])
    there = rows.any(-1)
    which = (there.cumsum(0) * there).view(observations.shape[:-1])
    return torch.cat([rows.new_zeros(1, rows.shape[-1]), rows[there]]), which


class EntityTokens(nn.Module):
    """An observation as tokens: oneself, allies, enemies; one token where there is no layout."""

    def __init__(self, spec: Spec, width: int) -> None:
        super().__init__()
        self.layout = spec.layout
        if spec.layout is None:
            self.whole = FlatObservation(spec, width)
            return
        sizes = (spec.layout.own[1], spec.layout.allies[2], spec.layout.enemies[2])
        self.each = nn.ModuleList(nn.Linear(size, width) for size in sizes)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """(B, O) -> tokens (B, E, D) and who is there (B, E) bool."""
        if self.layout is None:
            x = self.whole(observations).embedding.unsqueeze(1)
            return x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        seen = split_entities(self.layout, observations)
        parts = (seen.own.unsqueeze(1), seen.allies, seen.enemies)
        x = torch.cat([read(part) for read, part in zip(self.each, parts, strict=True)], 1)
        there = torch.cat([is_visible(seen.allies), is_visible(seen.enemies)], 1)
        return x, F.pad(there, (1, 0), value=True)


class EntityTransformer(nn.Module):
    """Attention over the entities and some tokens in front of them.

    Entities that are not there are left out, not masked: an observation is as long as what it
    shows, and those of about one length are read together.
    """

    def __init__(
        self, spec: Spec, width: int, layers: int, heads: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.tokens = EntityTokens(spec, width)
        self.transformer = Transformer(width, layers, heads, dropout)

    def forward(
        self,
        observations: Tensor,
        front: Tensor | None = None,
        wanted: Sequence[int] | None = None,
    ) -> Tensor:
        """Observations (B, O) behind tokens (B, F, D) -> (B, F + E, D), or (B, wanted, D).

        Outputs of entities that are not there are zero.
        """
        x, there = self.tokens(observations)
        if front is not None:
            x, there = torch.cat([front, x], 1), F.pad(there, (front.shape[1], 0), value=True)
        first = torch.argsort(~there, dim=1, stable=True)  # those who are there, in their order
        size = there.sum(1)

        def read(rows: Tensor) -> Tensor:
            each, tokens = x[rows], first[rows, : int(size[rows].max())]
            seen = there[rows].gather(1, tokens)
            mask = seen[:, None, None].expand(-1, 1, seen.shape[1], -1)
            at = None if wanted is None else tokens.new_tensor(wanted).expand(len(rows), -1)
            z = self.transformer(take_tokens(each, tokens), mask, at=at)[0]
            if at is not None:
                return z
            place = tokens.unsqueeze(-1).expand(-1, -1, z.shape[-1])
            return torch.zeros_like(each).scatter(1, place, z * seen.unsqueeze(-1))

        return map_by_length(size, read)


class EntityObservation(nn.Module):
    """Oneself and those one sees, after they have looked at each other; their order is nothing."""

    def __init__(self, spec: Spec, width: int) -> None:
        super().__init__()
        self.layout = spec.layout
        self.sizes = (1, spec.layout.allies[1], spec.layout.enemies[1])
        self.entities = EntityTransformer(spec, HIDDEN, 1, _HEADS)
        self.out = nn.Linear(HIDDEN, width)

    def forward(self, observations: Tensor) -> EncodedObservations:
        """(..., O) read entity by entity."""
        rows, which = deduplicate_blank(observations)
        own, allies, enemies = self.entities(rows).split(self.sizes, 1)
        targets = attack_targets(self.layout, rows, allies, enemies)
        return EncodedObservations(self.out(own.squeeze(1))[which], targets[which])


def observation_encoder(spec: Spec, width: int, encoder: str) -> nn.Module:
    """
    Raises:
        UserError: entities are asked for and the family has no layout.
    """
    check_encoder(encoder, spec)
    if encoder == "flat":
        return FlatObservation(spec, width)
    return EntityObservation(spec, width)
