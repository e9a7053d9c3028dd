"""Trajectories under way, read step by step: nothing is read twice."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maicc.models.embedding import Embedding
from maicc.models.observations import EncodedObservations
from maicc.models.transformer import KeyValues, append, causal_mask


class RunningPrefix:
    """The student's view of trajectories under way, extended step by step.

    Gives the same vectors as `Embedding.keys` on the finished trajectories (of which, if
    return-to-go is fed, the true one is known only then).
    """

    def __init__(self, embedding: Embedding) -> None:
        self.embedding = embedding
        self.past: KeyValues | None = None
        self.step = 0
        self._seen: EncodedObservations | None = None  # at the running step
        self._waiting: Tensor | None = None  # tokens of the last action and its outcome

    @torch.no_grad()
    def query(self, observations: Tensor, return_to_go: Tensor) -> Tensor:
        """The prefix that ends with `observations` (B, O), return-to-go (B,): (B, D) unit norm."""
        e = self.embedding.encoders
        self._seen = e.observation(observations)
        tokens = [self._seen.embedding]
        if self.embedding.student.return_to_go:
            tokens.insert(0, e.encode_return_to_go(return_to_go))
        new = torch.stack(tokens, 1) + e.step.weight[self.step]
        if self._waiting is None:
            return F.normalize(self._extend(new)[:, -1], dim=-1)
        z = self._extend(torch.cat([self._waiting, new], 1))
        return F.normalize(z[:, -1] + z[:, 0] + z[:, 1], dim=-1)

    @torch.no_grad()
    def advance(self, actions: Tensor, rewards: Tensor, done: Tensor, completed: Tensor) -> None:
        """The step's action and outcome, (B,) each; they are read with the next observation."""
        e = self.embedding.encoders
        tokens = [
            e.encode_action(actions, self._seen),
            e.encode_outcome(rewards, done, completed),
        ]
        self._waiting = torch.stack(tokens, 1) + e.step.weight[self.step]
        self.step += 1

    def _extend(self, tokens: Tensor) -> Tensor:
        past = self.past[0][0].shape[2] if self.past else 0
        mask = causal_mask(tokens.shape[1], past, tokens.device)
        z, own = self.embedding.student.transformer(tokens, mask, self.past)
        self.past = append(self.past, own)
        return z


class EpisodeEncoder:
    """What rows have seen in their running episode: each observation is read once.

    Args:
        reader: An observation encoder.
        rows, steps: Their number, and the most steps of an episode.
    """

    def __init__(self, reader: nn.Module, rows: int, steps: int) -> None:
        self.reader, self.rows, self.steps, self.step = reader, rows, steps, 0
        self._seen: EncodedObservations | None = None

    @torch.no_grad()
    def add(self, observations: Tensor) -> None:
        """(rows, O) of the next step."""
        now = self.reader(observations)
        if self._seen is None:
            self._seen = EncodedObservations(
                *(part.new_zeros(self.rows, self.steps, *part.shape[1:]) for part in now)
            )
        for kept, part in zip(self._seen, now, strict=True):
            kept[:, self.step] = part
        self.step += 1

    def take(self, rows: np.ndarray) -> EncodedObservations:
        """Of these rows (Q,), all steps so far: (Q, T, ...)."""
        at = torch.from_numpy(rows).to(self._seen.embedding.device)
        return EncodedObservations(*(part[at, : self.step] for part in self._seen))
