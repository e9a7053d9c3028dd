"""Encoders of observations: flat, with Fourier features, or by entities.

`flat` reads an observation as one padded vector (METHOD.md, section 2). `fourier` also reads the
sines and cosines of its numbers (Tancik et al. 2020). `entities` reads it by an `ObsLayout`, with a
transformer over the agent and those in sight. An attack is then scored against the one it is aimed
at, in a team of any size, and what was learnt of one enemy holds for all.

Dimensions: O numbers of an observation, F numbers of an entity, E entities, A allies, M enemies, of
which each has its own attack, D width.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maicc.config import check_encoder
from maicc.models.batching import map_by_length
from maicc.models.transformer import Transformer, take_tokens
from maicc.types import ObsLayout, Spec

HIDDEN = 64
WAVES = 5  # wavelengths of `fourier`: 2, 4, 8, ...
_HEADS = 4


class EncodedObservations(NamedTuple):
    """Observations that have been read."""

    embedding: Tensor  # (..., D) of the whole observation
    # (..., M, HIDDEN) of whom each attack is aimed at; zero where nobody is in sight; M = 0 if flat
    attack_targets: Tensor

    def target(self, number: Tensor) -> Tensor:
        """Picks the target with this number (...,) of each observation; zero where it is below 0.

        Returns:
            (..., HIDDEN).
        """
        if not self.attack_targets.shape[-2]:
            return self.attack_targets.new_zeros(*number.shape, HIDDEN)
        index = number.clamp(min=0)[..., None, None].expand(*number.shape, 1, HIDDEN)
        return self.attack_targets.gather(-2, index).squeeze(-2) * (number >= 0).unsqueeze(-1)


class FlatObservation(nn.Module):
    """An MLP [64, 64] on the whole vector.

    Args:
        fourier: Read the sines and cosines of each number too. By them places on a board are told
            apart at once, where an MLP learns slowly to tell them apart by the numbers alone. They
            are read by weights of their own, so that the numbers count as much as without them.
    """

    def __init__(self, spec: Spec, width: int, *, fourier: bool = False) -> None:
        super().__init__()
        size = spec.observation_size
        self.waves = nn.Linear(2 * WAVES * size, HIDDEN, bias=False) if fourier else None
        self.layers = nn.Sequential(
            nn.Linear(size, HIDDEN), nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN), nn.ReLU(),
            nn.Linear(HIDDEN, width),
        )  # fmt: skip

    def forward(self, observations: Tensor) -> EncodedObservations:
        """Reads (..., O) as one vector each."""
        x = self.layers[0](observations)
        if self.waves is not None:
            x = x + self.waves(waves(observations))
        embedding = self.layers[1:](x)
        return EncodedObservations(embedding, embedding.new_zeros(*embedding.shape[:-1], 0, HIDDEN))


def waves(x: Tensor) -> Tensor:
    """Sines of numbers at all wavelengths, then cosines: (..., O) -> (..., 2 * WAVES * O)."""
    angle = torch.cat([x * (math.pi / 2**i) for i in range(WAVES)], -1)
    return torch.cat([angle.sin(), angle.cos()], -1)


class Entities(NamedTuple):
    """Parts of an observation. Entities that are out of sight or dead are all zero."""

    own: Tensor  # (..., F)
    allies: Tensor  # (..., A, F)
    enemies: Tensor  # (..., M, F)


def split_entities(layout: ObsLayout, observations: Tensor) -> Entities:
    """Splits observations (..., O) into their entities."""

    def group(start: int, count: int, size: int) -> Tensor:
        return observations[..., start : start + count * size].unflatten(-1, (count, size))

    own = group(layout.own[0], 1, layout.own[1]).squeeze(-2)
    return Entities(own, group(*layout.allies), group(*layout.enemies))


def attack_targets(
    layout: ObsLayout, observations: Tensor, allies: Tensor, enemies: Tensor
) -> Tensor:
    """Selects, for each of the M attacks, the embedding of the one it is aimed at.

    This is enemy j for attack j; for agents that heal, ally j, and zero where there are fewer.

    Args:
        observations: (B, O), which say who heals.
        allies: (B, A, D) embeddings.
        enemies: (B, M, D) embeddings.

    Returns:
        (B, M, D).
    """
    if layout.heals is None:
        return enemies
    heals = observations[:, layout.own[0] + layout.heals, None, None] > 0
    return torch.where(heals, F.pad(allies, (0, 0, 0, enemies.shape[1] - allies.shape[1])), enemies)


def is_visible(entities: Tensor) -> Tensor:
    """Marks the entities that are in sight: (..., A, F) -> (..., A) bool."""
    return (entities != 0).any(-1)


def deduplicate_blank(observations: Tensor) -> tuple[Tensor, Tensor]:
    """Drops blank ones of observations (..., O), so that a blank one is read only once.

    Observations of steps that were not played are blank, and those of the dead.

    Returns:
        Rows (R, O), of which row 0 is all zero, and for each observation the number of its row,
        (...,).
    """
    flat = observations.reshape(-1, observations.shape[-1])
    filled = flat.any(-1)
    row = (filled.cumsum(0) * filled).view(observations.shape[:-1])
    return torch.cat([flat.new_zeros(1, flat.shape[-1]), flat[filled]]), row


class EntityTokens(nn.Module):
    """An observation as tokens: oneself, allies, enemies; one token where there is no layout.

    Args:
        fourier: Whether the one token is made of the numbers' sines and cosines, too.
    """

    def __init__(self, spec: Spec, width: int, *, fourier: bool = False) -> None:
        super().__init__()
        self.layout = spec.layout
        if spec.layout is None:
            self.whole = FlatObservation(spec, width, fourier=fourier)
            return
        sizes = (spec.layout.own[1], spec.layout.allies[2], spec.layout.enemies[2])
        self.each = nn.ModuleList(nn.Linear(size, width) for size in sizes)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Makes tokens of observations (B, O).

        Returns:
            (B, E, D) tokens, and (B, E) bool, True at oneself and at those in sight.
        """
        if self.layout is None:
            x = self.whole(observations).embedding.unsqueeze(1)
            return x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        entities = split_entities(self.layout, observations)
        groups = (entities.own.unsqueeze(1), entities.allies, entities.enemies)
        x = torch.cat([read(group) for read, group in zip(self.each, groups, strict=True)], 1)
        visible = torch.cat([is_visible(entities.allies), is_visible(entities.enemies)], 1)
        return x, F.pad(visible, (1, 0), value=True)


class EntityTransformer(nn.Module):
    """Attention over the entities and some tokens in front of them.

    Entities that are out of sight are left out, not masked: an observation is as long as what it
    shows, and observations of about one length are read together.
    """

    def __init__(
        self,
        spec: Spec,
        width: int,
        layers: int,
        heads: int,
        dropout: float = 0.0,
        *,
        fourier: bool = False,
    ) -> None:
        super().__init__()
        self.tokens = EntityTokens(spec, width, fourier=fourier)
        self.transformer = Transformer(width, layers, heads, dropout)

    def forward(
        self,
        observations: Tensor,
        front: Tensor | None = None,
        positions: list[int] | None = None,
    ) -> Tensor:
        """Outputs of the tokens in front and of the entities.

        Args:
            observations: (B, O).
            front: (B, n, D) tokens in front of the entities; none by default.
            positions: The m tokens whose outputs are wanted; all of them by default. The last layer
                computes hardly any others.

        Returns:
            (B, n + E, D), or (B, m, D). Outputs of entities that are out of sight are zero.
        """
        x, visible = self.tokens(observations)
        if front is not None:
            x, visible = torch.cat([front, x], 1), F.pad(visible, (front.shape[1], 0), value=True)
        wanted = visible
        if positions is not None:
            asked = torch.zeros_like(visible[0])
            asked[positions] = True
            wanted = visible & asked
        # in each row the tokens that are wanted, then the other visible ones, then the rest
        order = torch.argsort(visible.int() + wanted.int(), dim=1, descending=True, stable=True)
        size, outputs = visible.sum(1), wanted.sum(1)

        def read(rows: Tensor) -> Tensor:
            tokens = order[rows, : int(size[rows].max())]  # (b, l) numbers of tokens
            mask = visible[rows].gather(1, tokens)[:, None, None].expand(-1, 1, tokens.shape[1], -1)
            seen, first = take_tokens(x[rows], tokens), None
            if positions is not None:  # the first tokens of each row
                tokens = tokens[:, : int(outputs[rows].max())]
                first = torch.arange(tokens.shape[1], device=tokens.device).expand(len(rows), -1)
            z, _ = self.transformer(seen, mask, None, first)
            z = z * wanted[rows].gather(1, tokens).unsqueeze(-1)
            z = z.new_zeros(len(rows), *x.shape[1:]).scatter(
                1, tokens.unsqueeze(-1).expand_as(z), z
            )
            return z if positions is None else z[:, positions]

        return map_by_length(size, read)


class EntityObservation(nn.Module):
    """A transformer layer over oneself and those in sight, whose order does not matter."""

    def __init__(self, spec: Spec, width: int) -> None:
        super().__init__()
        self.layout = layout_of(spec)
        allies, enemies = self.layout.allies[1], self.layout.enemies[1]
        self.sizes, self.positions = (1, allies, enemies), None  # of all entities
        if self.layout.heals is None:  # no action is aimed at an ally: they are only looked at
            self.sizes = (1, 0, enemies)
            self.positions = [0, *range(1 + allies, 1 + allies + enemies)]
        self.entities = EntityTransformer(spec, HIDDEN, 1, _HEADS)
        self.out = nn.Linear(HIDDEN, width)

    def forward(self, observations: Tensor) -> EncodedObservations:
        """Reads (..., O) entity by entity."""
        rows, row = deduplicate_blank(observations)
        read = self.entities(rows, positions=self.positions)
        own, allies, enemies = read.split(self.sizes, 1)
        targets = attack_targets(self.layout, rows, allies, enemies)
        return EncodedObservations(self.out(own.squeeze(1))[row], targets[row])


def observation_encoder(spec: Spec, width: int, encoder: str) -> nn.Module:
    """Makes the encoder that is named `flat`, `fourier` or `entities`.

    Raises:
        UserError: entities are asked for and the family has no layout.
    """
    check_encoder(encoder, spec)
    if encoder == "entities":
        return EntityObservation(spec, width)
    return FlatObservation(spec, width, fourier=encoder == "fourier")


def layout_of(spec: Spec) -> ObsLayout:
    """The layout of a family that is read by entities; `check_encoder` has made sure of it."""
    assert spec.layout is not None
    return spec.layout
