"""Readers of running trajectories, step by step: nothing is read twice."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maicc.models.embedding import Embedding
from maicc.models.observations import EncodedObservations
from maicc.models.past import Past


class RunningPrefix:
    """The student's view of running trajectories, extended step by step.

    It gives the same vectors as `Embedding.keys` gives for the finished trajectories. A student
    that reads return-to-go is the exception: the true one is known only after the episode.
    """

    def __init__(self, embedding: Embedding) -> None:
        self.embedding = embedding
        self.past: Past | None = None
        self.step = 0
        self._encoded: EncodedObservations | None = None  # observations of the running step
        self._waiting: Tensor | None = None  # tokens of the last action and its outcome

    @torch.no_grad()
    def query(self, observations: Tensor, return_to_go: Tensor) -> Tensor:
        """Queries (B, D), unit norm, of the prefixes that end with these observations.

        Args:
            observations: (B, O).
            return_to_go: (B,).
        """
        e = self.embedding.encoders
        encoded = self._encoded = e.observation(observations)
        tokens = [encoded.embedding]
        if self.embedding.student.return_to_go:
            tokens.insert(0, e.encode_return_to_go(return_to_go))
        new = torch.stack(tokens, 1) + e.step.weight[self.step]
        if self._waiting is None:
            return F.normalize(self._extend(new)[:, -1], dim=-1)
        z = self._extend(torch.cat([self._waiting, new], 1))
        return F.normalize(z[:, -1] + z[:, 0] + z[:, 1], dim=-1)

    @torch.no_grad()
    def advance(self, actions: Tensor, rewards: Tensor, done: Tensor, completed: Tensor) -> None:
        """Takes the step's action and outcome, (B,) each; the next `query` reads them."""
        assert self._encoded is not None
        e = self.embedding.encoders
        tokens = [
            e.encode_action(actions, self._encoded),
            e.encode_outcome(rewards, done, completed),
        ]
        self._waiting = torch.stack(tokens, 1) + e.step.weight[self.step]
        self.step += 1

    def _extend(self, tokens: Tensor) -> Tensor:
        """Reads new tokens (B, L, D) behind those of the past -> outputs (B, L, D)."""
        e = self.embedding
        if self.past is not None:
            z, self.past = self.past.extend(e.student.transformer, tokens, None)
            return z
        z, kv = e.student.transformer(tokens)
        visible = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        per_step = 4 if e.student.return_to_go else 3
        self.past = Past(kv, visible).with_room(per_step * e.encoders.step.num_embeddings)
        return z


class EpisodeEncoder:
    """Encoded observations of a running episode: each observation is read once.

    Args:
        reader: An observation encoder.
        rows: Number of agents.
        steps: Longest episode.
    """

    def __init__(self, reader: nn.Module, rows: int, steps: int) -> None:
        self.reader, self.rows, self.steps, self.step = reader, rows, steps, 0
        self._encoded: EncodedObservations | None = None  # (rows, steps, ...)

    @torch.no_grad()
    def add(self, observations: Tensor) -> None:
        """Reads the observations (rows, O) of the next step."""
        encoded = self.reader(observations)
        if self._encoded is None:
            self._encoded = EncodedObservations(
                *(part.new_zeros(self.rows, self.steps, *part.shape[1:]) for part in encoded)
            )
        for all_steps, one_step in zip(self._encoded, encoded, strict=True):
            all_steps[:, self.step] = one_step
        self.step += 1

    def take(self, rows: np.ndarray, first: int = 0) -> EncodedObservations:
        """Picks these rows (Q,), with the steps from `first` up to the latest: (Q, T, ...)."""
        assert self._encoded is not None
        index = torch.from_numpy(rows).to(self._encoded.embedding.device)
        return EncodedObservations(*(part[index, first : self.step] for part in self._encoded))
