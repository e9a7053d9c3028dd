"""Heads: scores of actions, and predictions of the next observation and of the hidden part."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maicc.models.batching import take_rows
from maicc.models.observations import HIDDEN, is_visible, layout_of, split_entities
from maicc.types import Spec


class ActionHead(nn.Module):
    """Scores of all actions. With entities, an attack is scored against the one it is aimed at."""

    def __init__(self, spec: Spec, width: int, encoder: str) -> None:
        super().__init__()
        entities = encoder == "entities"
        n_plain = layout_of(spec).attack if entities else spec.n_actions
        self.plain = nn.Linear(width, n_plain)
        self.aim = nn.Linear(width, HIDDEN) if entities else None

    def forward(self, z: Tensor, targets: Tensor) -> Tensor:
        """Logits (..., A) of the actions.

        Args:
            z: (..., D) outputs at the observation.
            targets: (..., M, HIDDEN) attack targets of the observation.
        """
        logits = self.plain(z)
        if self.aim is None:
            return logits
        attacks = (targets @ self.aim(z).unsqueeze(-1)).squeeze(-1)
        return torch.cat([logits, attacks / HIDDEN**0.5], -1)


def hidden_head(spec: Spec, width: int, weight: float) -> nn.Linear | None:
    """Makes the head that tells the hidden part of the task, in training alone.

    None if the family does not tell it, or its loss has no weight.
    """
    return nn.Linear(width, spec.hidden) if spec.hidden > 0 and weight > 0 else None


class ImitationLosses(NamedTuple):
    """Means over the steps that are learned."""

    actions: Tensor  # cross-entropy
    accuracy: Tensor  # share of the actions that are predicted right
    hidden: Tensor | None  # squared error of the hidden part; None where it is not learned


def imitation_losses(
    logits: Tensor, actions: Tensor, hidden: Tensor | None, label_smoothing: float
) -> ImitationLosses:
    """Computes the losses of S steps; those of no step are 0.

    Args:
        logits: (S, A).
        actions: (S,) int64, what is learned.
        hidden: (S,) errors of `hidden_errors`, or none.
    """
    if not len(actions):
        return ImitationLosses(logits.sum(), logits.new_zeros(()), None)
    loss = F.cross_entropy(logits, actions, label_smoothing=label_smoothing)
    accuracy = (logits.argmax(-1) == actions).float().mean()
    told = None if hidden is None or not len(hidden) else hidden.mean()
    return ImitationLosses(loss, accuracy, told)


def hidden_errors(
    head: nn.Linear | None, z: Tensor, hidden: Tensor | None, rows: Tensor, learned: Tensor
) -> Tensor:
    """Squared errors (S,) of the hidden part at the steps that are learned; none without a head.

    Args:
        z: (S, D) outputs at these steps, row by row.
        hidden: (Q, R) the hidden part of the tasks of all rows in the batch.
        rows: (B,) numbers of the rows that are read.
        learned: (B, T) bool, their steps that are learned.
    """
    if head is None or hidden is None:
        return z.new_empty(0)
    return (head(z) - hidden[rows.repeat_interleave(learned.sum(1))]).square().mean(-1)


class DynamicsHead(nn.Module):
    """Gaussian prediction of the next observation (METHOD.md, section 3)."""

    def __init__(self, spec: Spec, width: int, encoder: str) -> None:
        super().__init__()
        self.layout = layout_of(spec) if encoder == "entities" else None
        self.shared = nn.Linear(2 * width, width)
        if self.layout is None:
            self.own = nn.Linear(width, 2 * spec.observation_size)
            return
        layout = self.layout
        self.own = nn.Linear(width, 2 * layout.own[1])
        self.ally, self.enemy = (nn.Linear(g[2], width) for g in (layout.allies, layout.enemies))
        self.next_ally = nn.Linear(width, 2 * layout.allies[2])
        self.next_enemy = nn.Linear(width, 2 * layout.enemies[2])

    def forward(self, outcome: Tensor, embedding: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """Mean negative log-likelihood (...,) of the numbers of the next observation.

        With entities, only the numbers of oneself and of those count who are in sight before or
        after.

        Args:
            outcome: (..., D) embedding of the step's outcome.
            embedding: (..., D) encoded observation `before`.
            before: (..., O) observation at the step.
            after: (..., O) observation at the next step.
        """
        shared = self.shared(torch.cat([outcome, embedding], -1))
        if self.layout is None:
            return _negative_log_likelihood(self.own(F.relu(shared)), after).mean(-1)
        old, new = split_entities(self.layout, before), split_entities(self.layout, after)
        total = _negative_log_likelihood(self.own(F.relu(shared)), new.own).sum(-1)  # (...,)
        count: int | Tensor = self.layout.own[1]
        for old_group, new_group, read, predict in (
            (old.allies, new.allies, self.ally, self.next_ally),
            (old.enemies, new.enemies, self.enemy, self.next_enemy),
        ):
            visible = is_visible(old_group) | is_visible(new_group)  # (..., A)
            observer = visible.flatten(0, -2).nonzero()[:, 0]  # of each of the V visible ones
            seen = F.relu(take_rows(shared.flatten(0, -2), observer) + read(old_group[visible]))
            loss = _negative_log_likelihood(predict(seen), new_group[visible]).sum(-1)  # (V,)
            total = total.flatten().index_add(0, observer, loss).view_as(total)
            count = count + visible.sum(-1) * new_group.shape[-1]
        return total / count


def _negative_log_likelihood(predicted: Tensor, value: Tensor) -> Tensor:
    """Gaussian negative log-likelihood (..., F) of each number, up to a constant.

    Args:
        predicted: (..., 2 F) means and log-variances.
        value: (..., F).
    """
    mean, log_variance = predicted.chunk(2, -1)
    log_variance = log_variance.clamp(-2.0, 0.0)
    return 0.5 * (log_variance + (value - mean) ** 2 / log_variance.exp())
