"""Past steps as a set: one token each, attending to each other without order.

A set is one episode of MAICC's record, or all that DPT remembers.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maicc.models.batching import packing, take_rows
from maicc.models.past import Past
from maicc.models.tokens import TokenEncoders
from maicc.models.transformer import Transformer
from maicc.types import Trajectories


class Transitions(NamedTuple):
    """Steps of whole episodes, those of an episode side by side and in their order."""

    step: Tensor  # (B, C) int64, the number of the step in its episode
    observations: Tensor  # (B, C, O)
    actions: Tensor  # (B, C)
    rewards: Tensor  # (B, C) of the team
    done: Tensor  # (B, C)
    completed: Tensor  # (B, C)
    mask: Tensor  # (B, C) bool, False at places without a step


class StepTokens(NamedTuple):
    """Sets of past steps, each step as one token."""

    x: Tensor  # (B, C, D)
    mask: Tensor  # (B, C) bool, False at places without a step

    def padded(self, places: int) -> StepTokens:
        """Adds empty places up to so many."""
        more = places - self.mask.shape[1]
        return StepTokens(F.pad(self.x, (0, 0, 0, more)), F.pad(self.mask, (0, more)))

    def read(self, transformer: Transformer) -> Past:
        """Computes the keys and values of each set."""
        itself = torch.eye(self.x.shape[1], dtype=torch.bool, device=self.x.device)
        # an empty place sees itself, so that its softmax is defined
        mask = (self.mask.unsqueeze(1) | itself).unsqueeze(1)
        return Past(transformer(self.x, mask, None, positions=slice(0))[1], self.mask)


def transitions(episodes: Trajectories) -> Transitions:
    """Takes episodes (B, E, T, ...) apart into steps (B, C, ...), with C = E * T."""
    step = torch.arange(episodes.actions.shape[2], device=episodes.actions.device)
    parts = (
        step.expand_as(episodes.actions), episodes.observations, episodes.actions,
        episodes.rewards, episodes.done, episodes.completed, episodes.step_mask,
    )  # fmt: skip
    return Transitions(*(part.flatten(1, 2) for part in parts))


_Steps = TypeVar("_Steps", Transitions, StepTokens)


def packed(steps: _Steps, most: int | None = None) -> _Steps:
    """Drops places that are empty in all sets, see `packing`."""
    order = packing(steps.mask, most)
    places = torch.arange(len(order), device=order.device)[:, None] * steps.mask.shape[1] + order
    return type(steps)(*(take_rows(part.flatten(0, 1), places) for part in steps))


def paid_in_between(steps: Transitions, most: int) -> Transitions:
    """Adds rewards of steps that `packed` drops to those of the next step that it keeps."""
    kept = packing(steps.mask, most)
    so_far = (steps.rewards * steps.mask).cumsum(1).gather(1, kept)
    paid = so_far.diff(dim=1, prepend=torch.zeros_like(so_far[:, :1]))
    return steps._replace(rewards=steps.rewards.scatter(1, kept, paid))


def step_tokens(
    steps: Transitions, encoders: TokenEncoders, following: nn.Linear, source: Tensor
) -> StepTokens:
    """Makes a token of each step of sets (B, C, ...).

    An observation is encoded once: as what was seen at its step, and as what followed the one
    before. Nothing, a blank observation, follows the last step of an episode.

    Args:
        following: Reads the embedding of what followed a step.
        source: (D,) embedding that tells where the tokens come from.
    """
    seen, did = encoders.encode_taken(steps.observations, steps.actions)
    blank = encoders.observation(torch.zeros_like(steps.observations[:1, :1])).embedding
    goes_on = (steps.step[:, 1:] == steps.step[:, :-1] + 1) & steps.mask[:, 1:]
    goes_on = F.pad(goes_on, (0, 1)).unsqueeze(-1)
    after = torch.where(goes_on, F.pad(seen[:, 1:], (0, 0, 0, 1)), blank)
    x = seen + did + following(after)
    x = x + encoders.step(steps.step) + source
    x = x + encoders.encode_outcome(steps.rewards, steps.done, steps.completed)
    return StepTokens(x, steps.mask)
