"""Reading observations, choosing actions and predicting what comes next: flat, or by entities.

`flat` reads an observation as one padded vector (METHOD.md, section 2). `entities` reads it by an
`ObsLayout`: an agent attends over the allies and enemies it sees, and an attack is scored against,
and read as, the enemy it is aimed at. Action j then means enemy j in a team of any size, and what
was learnt of one enemy holds for all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maicc.config import check_encoder
from maicc.types import ObsLayout, Spec

HIDDEN = 64
_HEADS = 4


class FlatObservation(nn.Module):
    """An MLP [64, 64] on the whole vector."""

    def __init__(self, spec: Spec, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(spec.observation_size, HIDDEN), nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN), nn.ReLU(),
            nn.Linear(HIDDEN, width),
        )  # fmt: skip

    def forward(self, observations: Tensor) -> Tensor:
        """(..., O) -> (..., D)."""
        return self.layers(observations)


class Entities(NamedTuple):
    """An observation taken apart. Those who are out of sight or dead are all zero."""

    own: Tensor  # (..., F)
    allies: Tensor  # (..., A, F)
    enemies: Tensor  # (..., M, F)


def take_apart(layout: ObsLayout, observations: Tensor) -> Entities:
    """(..., O) -> its entities."""

    def group(start: int, count: int, size: int) -> Tensor:
        return observations[..., start : start + count * size].unflatten(-1, (count, size))

    own = group(layout.own[0], 1, layout.own[1]).squeeze(-2)
    return Entities(own, group(*layout.allies), group(*layout.enemies))


def present(entities: Tensor) -> Tensor:
    """Who is seen: (..., A, F) -> (..., A) bool."""
    return (entities != 0).any(-1)


def read_once(observations: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
    """What `read` makes of observations, (..., O) -> (..., D), row by row.

    Those of steps that were not played, and of the dead, show nothing: that is read once.
    """
    rows = observations.reshape(-1, observations.shape[-1])
    shown = rows.any(-1)
    made = read(torch.cat([rows.new_zeros(1, rows.shape[-1]), rows[shown]]))
    placed = made[shown.cumsum(0) * shown]
    return placed.view(*observations.shape[:-1], placed.shape[-1])


class EntityObservation(nn.Module):
    """The agent attends over itself and those it sees; their number and order don't matter."""

    def __init__(self, layout: ObsLayout, width: int) -> None:
        super().__init__()
        self.layout = layout
        self.own = nn.Linear(layout.own[1], HIDDEN)
        self.ally = nn.Linear(layout.allies[2], HIDDEN)
        self.enemy = nn.Linear(layout.enemies[2], HIDDEN)
        self.query = nn.Linear(HIDDEN, _HEADS * HIDDEN)
        self.out = nn.Sequential(
            nn.Linear((1 + _HEADS) * HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, width)
        )

    def forward(self, observations: Tensor) -> Tensor:
        """(..., O) -> (..., D)."""
        return read_once(observations, self._read)

    def _read(self, observations: Tensor) -> Tensor:
        seen = take_apart(self.layout, observations)
        own = F.relu(self.own(seen.own))
        allies, enemies = F.relu(self.ally(seen.allies)), F.relu(self.enemy(seen.enemies))
        everyone = torch.cat([own.unsqueeze(-2), allies, enemies], -2)  # (..., E, HIDDEN)
        there = torch.cat([present(seen.allies), present(seen.enemies)], -1)
        there = F.pad(there, (1, 0), value=True)
        # keys and values are the entities themselves: what a head looks for is in its query
        query = self.query(own).unflatten(-1, (_HEADS, HIDDEN))
        score = (query @ everyone.mT) / HIDDEN**0.5  # (..., heads, E)
        share = score.masked_fill(~there.unsqueeze(-2), float("-inf")).softmax(-1)
        return self.out(torch.cat([own, (share @ everyone).flatten(-2)], -1))

    def enemies(self, observations: Tensor) -> Tensor:
        """(..., O) -> (..., M, HIDDEN)."""
        return F.relu(self.enemy(take_apart(self.layout, observations).enemies))

    def target(self, actions: Tensor, observations: Tensor) -> Tensor:
        """The enemy that an attack (...,) is aimed at, (..., HIDDEN); zero for other actions."""
        if not self.layout.enemies[1]:
            return observations.new_zeros(*actions.shape, HIDDEN)
        enemies = take_apart(self.layout, observations).enemies
        aim = actions - self.layout.attack
        at = aim.clamp(min=0)[..., None, None].expand(*aim.shape, 1, enemies.shape[-1])
        features = enemies.gather(-2, at).squeeze(-2)
        return F.relu(self.enemy(features)) * (aim >= 0).unsqueeze(-1)


def observation_encoder(spec: Spec, width: int, encoder: str) -> nn.Module:
    """
    Raises:
        UserError: entities are asked for and the family has no layout.
    """
    check_encoder(encoder, spec)
    if encoder == "flat":
        return FlatObservation(spec, width)
    return EntityObservation(spec.layout, width)


class ActionHead(nn.Module):
    """Scores of all actions; with entities, of an attack against the enemy it is aimed at."""

    def __init__(self, spec: Spec, width: int, encoder: str) -> None:
        super().__init__()
        self.entities = encoder == "entities"
        self.plain = nn.Linear(width, spec.layout.attack if self.entities else spec.n_actions)
        if self.entities:
            self.aim = nn.Linear(width, HIDDEN)

    def forward(self, z: Tensor, observations: Tensor, reader: nn.Module) -> Tensor:
        """z (..., D) of agents that see `observations` (..., O) -> logits (..., A).

        Args:
            reader: The encoder of those observations.
        """
        logits = self.plain(z)
        if not self.entities:
            return logits
        attacks = (reader.enemies(observations) @ self.aim(z).unsqueeze(-1)).squeeze(-1)
        return torch.cat([logits, attacks / HIDDEN**0.5], -1)


class DynamicsHead(nn.Module):
    """Gaussian prediction of the next observation (METHOD.md, section 3)."""

    def __init__(self, spec: Spec, width: int, encoder: str) -> None:
        super().__init__()
        self.entities, self.layout = encoder == "entities", spec.layout
        self.shared = nn.Linear(2 * width, width)
        if not self.entities:
            self.own = nn.Linear(width, 2 * spec.observation_size)
            return
        layout = self.layout
        self.own = nn.Linear(width, 2 * layout.own[1])
        self.ally, self.enemy = (nn.Linear(g[2], width) for g in (layout.allies, layout.enemies))
        self.next_ally = nn.Linear(width, 2 * layout.allies[2])
        self.next_enemy = nn.Linear(width, 2 * layout.enemies[2])

    def forward(self, outcome: Tensor, here: Tensor, now: Tensor, after: Tensor) -> Tensor:
        """Mean negative log-likelihood (...,) of observations `after` (..., O).

        With entities, of those that were seen before or are seen after.

        Args:
            outcome: (..., D) embedding of the step's outcome.
            here: (..., D) encoded observation `now` (..., O).
        """
        shared = self.shared(torch.cat([outcome, here], -1))
        if not self.entities:
            return _negative_log_likelihood(self.own(F.relu(shared)), after).mean(-1)
        layout = self.layout
        before, then = take_apart(layout, now), take_apart(layout, after)
        total = _negative_log_likelihood(self.own(F.relu(shared)), then.own).sum(-1)
        count = layout.own[1]
        for group, read, predict in (
            ("allies", self.ally, self.next_ally),
            ("enemies", self.enemy, self.next_enemy),
        ):
            old, new = getattr(before, group), getattr(then, group)
            there = present(old) | present(new)
            whose = there.nonzero(as_tuple=True)[:-1]
            each = predict(F.relu(shared[whose] + read(old[there])))
            missed = _negative_log_likelihood(each, new[there]).sum(-1)
            total = total.index_put(whose, missed, accumulate=True)
            count = count + there.sum(-1) * new.shape[-1]
        return total / count


def _negative_log_likelihood(predicted: Tensor, value: Tensor) -> Tensor:
    """Gaussian negative log-likelihood of each number, up to a constant."""
    mean, log_variance = predicted.chunk(2, -1)
    log_variance = log_variance.clamp(-2.0, 0.0)
    return 0.5 * (log_variance + (value - mean) ** 2 / log_variance.exp())
