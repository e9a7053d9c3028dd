"""Pieces of trajectories that RADT retrieves: their keys, and training batches with them.

A piece is `window` steps of a trajectory and as many that followed. Its key is the normalised mean
of the retriever's outputs at the observations of the first `window` steps. The retriever is a MADT.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maicc.baselines.madt import MADTModule
from maicc.baselines.sequence import SequenceTransformer, one_episode
from maicc.data.dataset import EpisodeFile
from maicc.data.slices import slices
from maicc.models.batching import tensors
from maicc.models.matrix_search import MatrixSearch
from maicc.models.observations import EncodedObservations
from maicc.models.tokens import OBSERVATION
from maicc.streams import Stream
from maicc.training.checkpoints import load_module
from maicc.training.family_data import FamilyData
from maicc.types import Trajectories

CANDIDATES = 50
NEAR_COPY = 0.98  # cosine above which a piece is dropped in training
QUERY_DROPOUT = 0.2  # share of its steps that a training query leaves out
_BATCH = 64


class RADTBatch(NamedTuple):
    """Trajectories, and the piece that was retrieved for each."""

    current: Trajectories  # (B, T, ...) tensors
    retrieved: Trajectories  # (B, T, ...) the trajectories that the pieces are of
    piece: Tensor  # (B, T) bool, True at steps of the piece; all False where there is none


def tokens(
    net: SequenceTransformer, slices: Trajectories, encoded: EncodedObservations | None
) -> tuple[Tensor, EncodedObservations]:
    """Makes the tokens of trajectories (B, T, ...), each a chain of one episode.

    Args:
        encoded: Their observations (B, T, ...), if they are encoded already.

    Returns:
        (B, T * m, D) tokens, and the encoded observations (B, T, ...).
    """
    if encoded is None:
        encoded = net.encoders.observation(slices.observations)
    chain = one_episode(slices)
    x, _, _ = net.tokens(chain, encoded=EncodedObservations(*(p.unsqueeze(1) for p in encoded)))
    return x.flatten(1, 3), encoded


def outputs(
    net: SequenceTransformer, slices: Trajectories, encoded: EncodedObservations | None = None
) -> Tensor:
    """Computes a transformer's outputs (B, T, m, D) on trajectories (B, T, ...).

    Args:
        encoded: Their observations (B, T, ...), if they are encoded already.
    """
    x, _ = tokens(net, slices, encoded)
    return net.transformer(x)[0].unflatten(1, (-1, len(net.kinds)))


def states(read: Tensor) -> Tensor:
    """Picks the outputs at the observations: (B, T, m, D) -> (B, T, D)."""
    return read[:, :, MADTModule.kinds.index(OBSERVATION)]


def keys(states: Tensor, window: int) -> Tensor:
    """Averages the latest `window` states at every step, to unit norm: (B, T, D) -> (B, T, D)."""
    total = F.pad(states.cumsum(1), (0, 0, window, 0))
    return F.normalize(total[:, window:] - total[:, :-window], dim=-1)


def ends(step_mask: np.ndarray, window: int) -> np.ndarray:
    """Marks the steps at which a piece ends: every `window`, and the episode's last. (..., T)."""
    T = step_mask.shape[-1]
    after = np.concatenate([step_mask[..., 1:], np.zeros_like(step_mask[..., :1])], -1)
    return step_mask & (((np.arange(T) + 1) % window == 0) | ~after)


def around(end: np.ndarray, T: int, window: int) -> np.ndarray:
    """Marks the steps of pieces that end at `end` (B,), and as many that follow: (B, T) bool."""
    distance = np.arange(T) - end[:, None]
    return (distance > -window) & (distance <= window)


def minmax(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Scales the valid values (B, C) of each row to lie between 0 and 1; the others are -inf."""
    low = np.where(valid, values, np.inf).min(1, keepdims=True)
    high = np.where(valid, values, -np.inf).max(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        scaled = (values - low) / np.maximum(high - low, 1e-9)
    return np.where(valid, scaled, -np.inf)


class RADTData(FamilyData):
    """Batches of trajectories, each with a piece for one of its prefixes, the query.

    A piece is retrieved for long queries, and is any of the task for short ones, as in the authors'
    code: of what an agent sees at first, the retriever may not tell the task.

    Args:
        family: Task family; `maicc tasks` lists them.
        path: The dataset.
        retriever: Checkpoint of the MADT that retrieves.
        window: Steps of a piece, and of what followed it.
        batch_size: Trajectories per batch.
        seed: Seed of the batches.
        held_back: Share of the episodes that are not trained on.
        short_query: Queries that end before this step are short.
    """

    def __init__(
        self,
        family: str,
        path: str = "runs/episodes.h5",
        retriever: str = "runs/retriever.ckpt",
        window: int = 8,
        batch_size: int = 96,
        seed: int = 0,
        held_back: float = 0.0,
        short_query: int = 10,
    ) -> None:
        super().__init__(family, path, seed, held_back)
        self.retriever, self.window, self.batch_size = Path(retriever), window, batch_size
        self.short_query = short_query

    def prepare_data(self) -> None:
        """Checks the retriever, and collects the dataset if it does not exist."""
        load_module(self.retriever, MADTModule, self.spec)  # before a long collection
        super().prepare_data()

    def setup(self, stage: str) -> None:
        """Reads the dataset and makes the index of its pieces."""
        episodes = EpisodeFile(self.path).mapped()
        stored = slices(episodes, self.spec.bounds)
        self.held = self.hold_back(episodes)[stored.episode]  # (M,) bool
        self.stored = stored
        self.episode, self.task = stored.episode, stored.task
        net = load_module(self.retriever, MADTModule, self.spec).net
        with torch.no_grad():
            self.states = torch.cat(
                [
                    states(outputs(net, self._whole(slice(i, i + _BATCH))))
                    for i in range(0, len(self.episode), _BATCH)
                ]
            ).numpy()
        mask = stored.trajectories.step_mask
        self.item, self.end = np.nonzero(ends(mask, self.window) & ~self.held[:, None])
        vectors = keys(torch.from_numpy(self.states), self.window).numpy()[self.item, self.end]
        self.index = MatrixSearch(vectors, "cpu")
        self.most_pieces = np.bincount(self.episode[self.item]).max()  # of one episode
        self.by_task = self.task[self.item].argsort(kind="stable")  # pieces, and their tasks
        self.tasks = self.task[self.item[self.by_task]]
        self.length = mask.sum(1)

    def _whole(self, index: Any) -> Trajectories:
        """Takes whole trajectories (B, T, ...)."""
        return tensors(self.stored.trajectories.take(index))

    def retrieve(self, item: np.ndarray, step: np.ndarray, in_query: np.ndarray) -> np.ndarray:
        """Retrieves a piece for each prefix.

        Args:
            item: (B,) number of the trajectory.
            step: (B,) last step of the prefix.
            in_query: (B, window) bool, which of the latest steps the query averages; the last step
                comes last.

        Returns:
            (B,) number of the piece, -1 if there is none.
        """
        latest = step[:, None] - np.arange(self.window)[::-1]  # (B, window)
        in_query = in_query & (latest >= 0)
        in_query[:, -1] |= ~in_query.any(1)
        query = (self.states[item[:, None], latest.clip(0)] * in_query[..., None]).sum(1)
        query /= np.maximum(np.linalg.norm(query, axis=1, keepdims=True), 1e-9)
        n = min(CANDIDATES + self.most_pieces, len(self.item))
        similarity, piece = self.index.search(query, n, most=NEAR_COPY)
        valid = self.episode[self.item[piece]] != self.episode[item, None]
        valid &= np.isfinite(similarity)
        valid &= valid.cumsum(1) <= CANDIDATES
        same = self.task[self.item[piece]] == self.task[item, None]
        best = (minmax(similarity, valid) + same).argmax(1)
        chosen = np.take_along_axis(piece, best[:, None], 1)[:, 0]
        return np.where(valid.any(1), chosen, -1)

    def any_of_task(self, item: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draws a piece of the task of each trajectory (B,), or -1 if it is of the same episode."""
        task = self.task[item]
        first, last = (np.searchsorted(self.tasks, task, side) for side in ("left", "right"))
        place = (first + rng.random(len(item)) * (last - first)).astype(np.int64)
        piece = self.by_task[place.clip(max=len(self.by_task) - 1)]
        other = self.episode[self.item[piece]] != self.episode[item]
        return np.where(other & (first < last), piece, -1)

    def batches(self, step: int, rank: int = 0, *, held_back: bool = False) -> Iterator[RADTBatch]:
        """Yields batches from a fit's step on; they follow from seed, step and rank alone."""
        shown = np.flatnonzero(self.held == held_back)
        while True:
            rng = np.random.default_rng([self.seed, Stream.RADT_BATCHES, rank, step])
            item = shown[rng.integers(len(shown), size=self.batch_size)]
            last = (rng.random(len(item)) * self.length[item]).astype(np.int64)
            in_query = rng.random((len(item), self.window)) >= QUERY_DROPOUT
            piece = self.any_of_task(item, rng)
            long = last >= self.short_query
            if long.any():
                piece[long] = self.retrieve(item[long], last[long], in_query[long])
            retrieved = self._whole(self.item[piece])
            steps = around(self.end[piece], self.spec.max_steps, self.window)
            steps &= (piece >= 0)[:, None]
            current = self._whole(item)
            yield RADTBatch(current, retrieved, torch.from_numpy(steps) & retrieved.step_mask)
            step += 1
