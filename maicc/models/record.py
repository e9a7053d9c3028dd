"""An agent's past steps as a set: one token each, attending to each other without order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maicc.models.tokens import TokenEncoders
from maicc.models.transformer import KeyValues, Transformer
from maicc.types import Trajectories


class Transitions(NamedTuple):
    """Steps and what followed each, in any order."""

    step: Tensor  # (B, C) int64, the number of the step in its episode
    observations: Tensor  # (B, C, O)
    actions: Tensor  # (B, C)
    following: Tensor  # (B, C, O), zero after the last step
    rewards: Tensor  # (B, C) of the team
    done: Tensor  # (B, C)
    completed: Tensor  # (B, C)
    mask: Tensor  # (B, C) bool, False at places without a step

    def take(self, rows: Tensor) -> Transitions:
        """Picks the sets of these rows."""
        return Transitions(*(part[rows] for part in self))


def transitions(episodes: Trajectories) -> Transitions:
    """Takes episodes (B, E, T, ...) apart into steps (B, C, ...), with C = E * T."""
    B, E, T = episodes.actions.shape
    step = torch.arange(T, device=episodes.actions.device).expand(B, E, T)
    played = episodes.observations * episodes.step_mask.unsqueeze(-1)
    following = F.pad(played[:, :, 1:], (0, 0, 0, 1))
    parts = (
        step, episodes.observations, episodes.actions, following, episodes.rewards, episodes.done,
        episodes.completed, episodes.step_mask,
    )  # fmt: skip
    return Transitions(*(part.flatten(1, 2) for part in parts))


def packed(steps: Transitions, most: int | None = None) -> Transitions:
    """Drops places that are empty in all sets; at least one place stays.

    Args:
        most: Steps of a set that stay; of a larger set every so many-th one does. None keeps all.
    """
    size = steps.mask.sum(1)
    longest = max(int(size.max()) if len(size) else 0, 1)
    order = (~steps.mask).long().argsort(dim=1, stable=True)[:, :longest]
    if most is not None and longest > most:
        place = torch.arange(most, device=order.device).expand(len(order), most)
        spread = place * size[:, None] // most
        order = order.gather(1, torch.where(size[:, None] > most, spread, place))
    row = torch.arange(len(order), device=order.device)[:, None]
    return Transitions(*(part[row, order] for part in steps))


def encode_transitions(
    steps: Transitions,
    encoders: TokenEncoders,
    following: nn.Linear,
    source: Tensor,
    transformer: Transformer,
) -> KeyValues:
    """Encodes sets of steps (B, C, ...), each step as one token.

    Args:
        following: Reads the embedding of what followed a step.
        source: (D,) embedding that tells where the tokens come from.

    Returns:
        Keys and values per layer, each (B, heads, C, width / heads).
    """
    before = encoders.observation(steps.observations)
    after = encoders.observation(steps.following)
    x = before.embedding + encoders.encode_action(steps.actions, before)
    x = x + following(after.embedding)
    x = x + encoders.step(steps.step) + source
    x = x + encoders.encode_outcome(steps.rewards, steps.done, steps.completed)
    itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    # an empty place sees itself, so that its softmax is defined
    no_outputs = torch.empty(len(x), 0, dtype=torch.long, device=x.device)
    mask = (steps.mask.unsqueeze(1) | itself).unsqueeze(1)
    return transformer(x, mask, None, no_outputs)[1]
