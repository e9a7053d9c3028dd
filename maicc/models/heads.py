"""Choosing actions and predicting what comes next, from what was read: see encoders.py."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maicc.models.observations import HIDDEN, is_visible, split_entities
from maicc.types import Spec


class ActionHead(nn.Module):
    """Scores of all actions; with entities, of an attack against the one it is aimed at."""

    def __init__(self, spec: Spec, width: int, encoder: str) -> None:
        super().__init__()
        entities = encoder == "entities"
        self.plain = nn.Linear(width, spec.layout.attack if entities else spec.n_actions)
        self.aim = nn.Linear(width, HIDDEN) if entities else None

    def forward(self, z: Tensor, targets: Tensor) -> Tensor:
        """z (..., D) of agents that have read `targets` (..., M, HIDDEN) -> logits (..., A)."""
        logits = self.plain(z)
        if self.aim is None:
            return logits
        attacks = (targets @ self.aim(z).unsqueeze(-1)).squeeze(-1)
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
        before, then = split_entities(layout, now), split_entities(layout, after)
        total = _negative_log_likelihood(self.own(F.relu(shared)), then.own).sum(-1)
        count = layout.own[1]
        for group, read, predict in (
            ("allies", self.ally, self.next_ally),
            ("enemies", self.enemy, self.next_enemy),
        ):
            old, new = getattr(before, group), getattr(then, group)
            there = is_visible(old) | is_visible(new)
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
