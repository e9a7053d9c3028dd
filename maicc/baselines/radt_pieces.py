"""What RADT retrieves: pieces of trajectories, their keys, and training batches with them.

A piece is `window` steps of a trajectory and as many that followed. Its key is the normalised mean
of the retriever's outputs at the observations of those steps; the retriever is a MADT.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maicc.baselines.madt import MADTModule
from maicc.baselines.sequence import SequenceTransformer, one_episode
from maicc.data.dataset import EpisodeFile, slices
from maicc.memory.index import empty_index
from maicc.models.observations import EncodedObservations
from maicc.models.tokens import OBSERVATION
from maicc.streams import Stream
from maicc.training.family_data import FamilyData
from maicc.training.modules import load_module
from maicc.types import Trajectories

CANDIDATES = 50
NEAR_COPY = 0.98  # more similar ones are dropped in training
SEARCHED = 2000  # nearest among which candidates are looked for: near-copies come in hundreds
QUERY_DROPOUT = 0.2  # of the steps that a training query averages
_BATCH = 64


class RADTBatch(NamedTuple):
    """Trajectories with the piece that was retrieved for each."""

    current: Trajectories  # (B, T, ...) tensors
    retrieved: Trajectories  # (B, T, ...) the trajectory the piece is of
    piece: Tensor  # (B, T) bool, its steps; none where nothing was retrieved


def tokens(
    net: SequenceTransformer, slices: Trajectories, seen: EncodedObservations | None
) -> tuple[Tensor, EncodedObservations]:
    """Of trajectories (B, T, ...), each on its own: (B, T * m, D); and what they have seen."""
    if seen is None:
        seen = net.encoders.observation(slices.observations)
    chain = one_episode(slices)
    x, _ = net.tokens(chain, seen=EncodedObservations(*(part.unsqueeze(1) for part in seen)))
    return x.flatten(1, 3), seen


def outputs(
    net: SequenceTransformer, slices: Trajectories, seen: EncodedObservations | None = None
) -> Tensor:
    """Of a decision transformer on trajectories (B, T, ...): (B, T, m, D)."""
    x, _ = tokens(net, slices, seen)
    return net.transformer(x)[0].unflatten(1, (-1, len(net.kinds)))


def states(read: Tensor) -> Tensor:
    """Outputs (B, T, m, D) at the observations: (B, T, D)."""
    return read[:, :, MADTModule.kinds.index(OBSERVATION)]


def keys(states: Tensor, window: int) -> Tensor:
    """Normalised mean of the latest `window` states, at every step: (B, T, D)."""
    total = F.pad(states.cumsum(1), (0, 0, window, 0))
    return F.normalize(total[:, window:] - total[:, :-window], dim=-1)


def ends(step_mask: np.ndarray, window: int) -> np.ndarray:
    """Steps at which a piece ends, every `window` and at the end of the episode: (..., T) bool."""
    T = step_mask.shape[-1]
    after = np.concatenate([step_mask[..., 1:], np.zeros_like(step_mask[..., :1])], -1)
    return step_mask & (((np.arange(T) + 1) % window == 0) | ~after)


def around(end: np.ndarray, T: int, window: int) -> np.ndarray:
    """The steps of pieces that end at `end` (B,) and of what followed: (B, T) bool."""
    distance = np.arange(T) - end[:, None]
    return (distance > -window) & (distance <= window)


def minmax(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Values (B, C) on a scale from 0 to 1 in each row, among the valid ones; -inf for others."""
    low = np.where(valid, values, np.inf).min(1, keepdims=True)
    high = np.where(valid, values, -np.inf).max(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        scaled = (values - low) / np.maximum(high - low, 1e-9)
    return np.where(valid, scaled, -np.inf)


class RADTData(FamilyData):
    """Trajectories, each with the piece retrieved for one of its prefixes.

    Args:
        family: Task family; `maicc tasks` lists them.
        path: The dataset.
        retriever: Checkpoint of the MADT that retrieves.
        window: Steps of a piece, and of what followed it.
        batch_size: Trajectories per batch.
        seed: Seed of the batches.
    """

    def __init__(
        self,
        family: str,
        path: str = "runs/episodes.h5",
        retriever: str = "runs/retriever.ckpt",
        window: int = 8,
        batch_size: int = 96,
        seed: int = 0,
    ) -> None:
        super().__init__(family, path, seed)
        self.retriever, self.window, self.batch_size = Path(retriever), window, batch_size

    def prepare_data(self) -> None:
        load_module(self.retriever, MADTModule, self.spec)  # before a long collection
        super().prepare_data()

    def setup(self, stage: str) -> None:
        found = slices(EpisodeFile(self.path).read(), self.spec.bounds)
        self.slices = Trajectories(*(torch.from_numpy(part) for part in found.trajectories))
        self.episode, self.task = found.episode, found.task
        net = load_module(self.retriever, MADTModule, self.spec).net
        with torch.no_grad():
            self.states = torch.cat(
                [
                    states(outputs(net, self.slices.take(slice(i, i + _BATCH))))
                    for i in range(0, len(self.episode), _BATCH)
                ]
            ).numpy()
        mask = found.trajectories.step_mask
        self.item, self.end = np.nonzero(ends(mask, self.window))
        vectors = keys(torch.from_numpy(self.states), self.window).numpy()[self.item, self.end]
        self.index = empty_index(vectors.shape[1], "Flat")
        self.index.add(np.ascontiguousarray(vectors))
        self.length = mask.sum(1)

    def retrieve(self, item: np.ndarray, step: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """The pieces (B,) for the prefixes of trajectories `item` that end at `step`; -1 if none.

        Args:
            kept: (B, window) bool, which of the latest steps the query averages, the last one last.
        """
        back = step[:, None] - np.arange(self.window)[::-1]
        kept = kept & (back >= 0)
        kept[:, -1] |= ~kept.any(1)
        query = (self.states[item[:, None], back.clip(0)] * kept[..., None]).sum(1)
        query /= np.maximum(np.linalg.norm(query, axis=1, keepdims=True), 1e-9)
        n = min(SEARCHED, len(self.item))
        similarity, piece = self.index.search(np.ascontiguousarray(query, np.float32), n)
        valid = (self.episode[self.item[piece]] != self.episode[item, None]) & (piece >= 0)
        valid &= similarity <= NEAR_COPY
        valid &= valid.cumsum(1) <= CANDIDATES
        same = self.task[self.item[piece]] == self.task[item, None]
        best = (minmax(similarity, valid) + same).argmax(1)
        chosen = np.take_along_axis(piece, best[:, None], 1)[:, 0]
        return np.where(valid.any(1), chosen, -1)

    def batches(self, step: int, rank: int = 0) -> Iterator[RADTBatch]:
        while True:
            rng = np.random.default_rng([self.seed, Stream.RADT_BATCHES, rank, step])
            item = rng.integers(len(self.length), size=self.batch_size)
            at = (rng.random(len(item)) * self.length[item]).astype(np.int64)
            kept = rng.random((len(item), self.window)) >= QUERY_DROPOUT
            piece = self.retrieve(item, at, kept)
            other = torch.from_numpy(self.item[piece])
            seen = around(self.end[piece], self.spec.max_steps, self.window)
            seen = torch.from_numpy(seen & (piece >= 0)[:, None])
            retrieved = self.slices.take(other)
            current = self.slices.take(torch.from_numpy(item))
            yield RADTBatch(current, retrieved, seen & retrieved.step_mask)
            step += 1
