"""Batches without needless padding."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from maicc.types import Trajectories

_GROUPS = 4


def trimmed(t: Trajectories) -> Trajectories:
    """Without steps that none of them played: (..., T, ...) tensors, the first step always kept."""
    lead = t.step_mask.ndim - 1
    T = max(int(t.step_mask.sum(-1).max()) if t.step_mask.numel() else 0, 1)
    return Trajectories(*(part.narrow(lead, 0, T) for part in t))


def split_by_length(length: Tensor) -> list[Tensor]:
    """The rows of a batch (Q,) in groups of about one length, the short ones first.

    All in one group where padding each group to its longest row, and not all to the longest of
    all, saves less than a fifth; and on a GPU, where a small group takes as long as a large one.
    """
    order = length.argsort(stable=True)
    if length.device.type != "cpu":
        return [order]
    parts = [part for part in order.tensor_split(_GROUPS) if len(part)]
    padded = sum(len(part) * int(length[part[-1]]) for part in parts)
    return parts if padded <= 0.8 * len(length) * int(length.max()) else [order]


def map_by_length(length: Tensor, work: Callable[[Tensor], Tensor]) -> Tensor:
    """What `work` makes of the rows at an index (n,), done in groups of about one length: of all
    rows, in their order.

    Args:
        length: (Q,) of each row.
        work: Gives tensors of one shape for all groups but in their first dimension.
    """
    groups = split_by_length(length)
    return torch.cat([work(rows) for rows in groups])[torch.cat(groups).argsort()]


def concat_by_length(
    length: Tensor, supervised: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Logits (S, A) and labels (S,) of a batch, worked out for rows of about one length at a time.

    Args:
        length: (Q,) of each row.
        supervised: Gives the logits and labels of the rows at an index.
    """
    each = [supervised(rows) for rows in split_by_length(length)]
    logits, labels = zip(*each, strict=True)
    return torch.cat(logits), torch.cat(labels)
