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
from maicc.models.batching import split_by_length, take_rows
from maicc.models.transformer import Transformer
from maicc.types import ObsLayout, Spec

HIDDEN = 64
WAVES = 5  # wavelengths of `fourier`: 2, 4, 8, ...
_HEADS = 4


class EncodedObservations(NamedTuple):
    """Observations that have been read."""

    embedding: Tensor  # (..., D) of the whole observation
    # (..., M, HIDDEN) of whom each attack is aimed at, or (..., 1, HIDDEN) if one attack alone was
    # asked for, and then neither `target` nor a head may read it; zero where nobody is in sight;
    # M = 0 if flat
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


def aims(layout: ObsLayout, observations: Tensor) -> Tensor:
    """Tells which entity each of the M attacks is aimed at.

    This is enemy j for attack j; for agents that heal it is ally j.

    Args:
        observations: (B, O), which say who heals.

    Returns:
        (B, M) numbers of entities: oneself is 0, allies and then enemies follow. -1 where an agent
        that heals has fewer allies.
    """
    allies, enemies = layout.allies[1], layout.enemies[1]
    attack = torch.arange(enemies, device=observations.device)
    at_enemy = (1 + allies + attack).expand(len(observations), -1)
    if layout.heals is None:
        return at_enemy
    heals = observations[:, layout.own[0] + layout.heals, None] > 0
    return torch.where(heals, torch.where(attack < allies, 1 + attack, -1), at_enemy)


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
            (V, D) tokens of all in sight, behind a blank one, and (B, E) int64 which of them each
            entity has. Those out of sight have the blank one, 0.
        """
        if self.layout is None:
            x = [self.whole(observations).embedding]
            places = [torch.arange(1, 1 + len(observations), device=observations.device)[:, None]]
        else:
            own, allies, enemies = split_entities(self.layout, observations)
            groups = (own.unsqueeze(1), allies, enemies)
            oneself = torch.ones(len(own), 1, dtype=torch.bool, device=own.device)
            sights = (oneself, is_visible(allies), is_visible(enemies))
            x, places, before = [], [], 0
            for read, group, visible in zip(self.each, groups, sights, strict=True):
                x.append(read(group[visible]))
                number = before + visible.flatten().cumsum(0).view_as(visible)
                places.append(number * visible)
                before += len(x[-1])
        return torch.cat([x[0].new_zeros(1, x[0].shape[1]), *x]), torch.cat(places, 1)


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
        positions: Tensor | None = None,
    ) -> Tensor:
        """Outputs of the tokens in front and of the entities.

        Args:
            observations: (B, O).
            front: (B, n, D) tokens in front of the entities; none by default.
            positions: (m,) or (B, m) the tokens whose outputs are wanted, -1 for none; all tokens
                by default. The last layer computes hardly any others.

        Returns:
            (B, n + E, D), or (B, m, D). Outputs of entities that are out of sight are zero, and
            those of none.
        """
        x, place = self.tokens(observations)
        if front is not None:
            first = torch.arange(len(x), len(x) + front[..., 0].numel(), device=x.device)
            x = torch.cat([x, front.flatten(0, 1)])
            place = torch.cat([first.view(front.shape[:2]), place], 1)
        if positions is None:
            return take_rows(*self._read(x, place, place > 0))
        B, E = place.shape
        # none is a column of its own behind all tokens
        positions = torch.where(positions < 0, E, positions).expand(B, -1)
        asked = torch.zeros(B, E + 1, dtype=torch.bool, device=x.device).scatter(1, positions, True)
        z, output = self._read(x, place, (place > 0) & asked[:, :E])
        return take_rows(z, F.pad(output, (0, 1)).gather(1, positions))

    def _read(self, x: Tensor, place: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Reads tokens together with the others of their row.

        Args:
            x: (V, D) tokens, of which the first is blank.
            place: (B, E) which of them each token of a row is, those in front included; the blank
                one is left out.
            wanted: (B, E) bool, the tokens whose outputs are wanted, none of them blank.

        Returns:
            Outputs, of which the first is blank, and (B, E) which of them each token has; the blank
            one where none is wanted.
        """
        visible = place > 0
        # in each row the tokens that are wanted, then the other visible ones, then the rest
        order = torch.argsort(visible.int() + wanted.int(), dim=1, descending=True, stable=True)
        size, outputs = visible.sum(1), wanted.sum(1)
        groups = split_by_length(size)
        tokens = [order[rows, : int(size[rows].max())] for rows in groups]  # (b, l) numbers
        places = [place[rows].gather(1, some) for rows, some in zip(groups, tokens, strict=True)]
        seen = take_rows(x, torch.cat([part.flatten() for part in places]))
        seen = seen.split([part.numel() for part in places])
        read, done = [x.new_zeros(1, x.shape[1])], 1
        output = torch.zeros_like(place)
        for i, rows in enumerate(groups):
            L, n = tokens[i].shape[1], int(outputs[rows].max())
            mask = (places[i] > 0)[:, None, None].expand(-1, 1, L, -1)
            z, _ = self.transformer(seen[i].unflatten(0, (-1, L)), mask, None, slice(n))
            read.append(z.flatten(0, 1))
            first = tokens[i][:, :n]
            number = torch.arange(done, done + first.numel(), device=x.device).view_as(first)
            output[rows.unsqueeze(1), first] = number * wanted[rows].gather(1, first)
            done += first.numel()
        return torch.cat(read), output


class EntityObservation(nn.Module):
    """A transformer layer over oneself and those in sight, whose order does not matter."""

    def __init__(self, spec: Spec, width: int) -> None:
        super().__init__()
        self.layout = layout_of(spec)
        self.entities = EntityTransformer(spec, HIDDEN, 1, _HEADS)
        self.out = nn.Linear(HIDDEN, width)

    def forward(self, observations: Tensor, attack: Tensor | None = None) -> EncodedObservations:
        """Reads (..., O) entity by entity.

        Args:
            attack: (...,) the only attack of each observation whose target is wanted, below 0 for
                none. By default the targets of all attacks are.
        """
        rows, row = deduplicate_blank(observations)
        aimed_at = aims(self.layout, rows)
        if attack is not None:
            # whichever attack blank observations share, nobody is in sight there
            attack = attack.new_full((len(rows),), -1).scatter(0, row.flatten(), attack.flatten())
            # behind those of all attacks stands the aim of none
            attack = torch.where(attack < 0, aimed_at.shape[1], attack)
            aimed_at = F.pad(aimed_at, (0, 1), value=-1).gather(1, attack.unsqueeze(1))
        read = self.entities(rows, positions=F.pad(aimed_at, (1, 0)))  # oneself, then the targets
        own, targets = read.split((1, aimed_at.shape[1]), 1)
        return EncodedObservations(
            take_rows(self.out(own.squeeze(1)), row), take_rows(targets, row)
        )


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
