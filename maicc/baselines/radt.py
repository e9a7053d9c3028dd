"""RADT, the retrieval-augmented decision transformer (Schmied et al. 2024).

A decision transformer (MADT) is trained first. A frozen copy retrieves: the key of a piece of a
trajectory is the normalised mean of the copy's outputs at the latest observations. A second copy,
with a cross-attention after every layer, is trained on with the one piece that was retrieved, seen
through the frozen copy. At test time an agent retrieves from its own episodes only, at every step:
the piece that is most like the present and had the highest return.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from maicc.baselines.base import BaselineModule, BaselineTeam
from maicc.baselines.madt import MADTModule
from maicc.baselines.sequence import SequenceTransformer, one_episode
from maicc.config import DecisionConfig, RunConfig
from maicc.dataset import EpisodeFile, slices
from maicc.encoders import RunningSeen, Seen
from maicc.family_data import FamilyData
from maicc.files import ModelFiles
from maicc.fitting import load_module
from maicc.lengths import in_groups, trimmed
from maicc.lockstep import Lived
from maicc.memory.index import empty_index
from maicc.retrieved import Retrieved
from maicc.tokens import OBSERVATION
from maicc.transformer import attend, initialise
from maicc.types import Spec, Trajectories

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


class CrossAttention(nn.Module):
    """Adds to each token what it finds in the retrieved piece."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor, piece: Tensor, seen: Tensor) -> Tensor:
        """x (B, L, D), piece (B, S, D), seen (B, S) bool: (B, L, D)."""
        q = rearrange(self.query(self.norm(x)), "b l (h d) -> b h l d", h=self.heads)
        k, v = rearrange(self.key_value(piece), "b s (two h d) -> two b h s d", two=2, h=self.heads)
        any_seen = seen.any(1)
        mask = (seen | ~any_seen[:, None])[:, None, None].expand(-1, 1, x.shape[1], -1)
        found = rearrange(attend(q, k, v, mask), "b h l d -> b l (h d)")
        return x + self.project(found) * any_seen[:, None, None]


class RADTransformer(nn.Module):
    """The frozen retriever and the decision transformer that reads what it finds."""

    def __init__(self, spec: Spec, config: DecisionConfig) -> None:
        super().__init__()
        self.retriever = SequenceTransformer(spec, config, MADTModule.kinds, 1)
        self.decision = SequenceTransformer(spec, config, MADTModule.kinds, 1)
        self.cross = nn.ModuleList(
            CrossAttention(config.width, config.heads) for _ in range(config.layers)
        )
        initialise(self.cross, config.layers)
        self.retriever.requires_grad_(False)

    def train(self, mode: bool = True) -> RADTransformer:
        super().train(mode)
        self.retriever.eval()  # what it reads does not change
        return self

    @torch.no_grad()
    def read(self, slices: Trajectories, seen: Seen | None = None) -> Tensor:
        """The retriever's outputs (B, T, m, D)."""
        return outputs(self.retriever, slices, seen)

    def forward(
        self, current: Trajectories, retrieved: Tensor, piece: Tensor, seen: Seen | None = None
    ) -> Tensor:
        """Logits (B, T, A), given what was `read` (B, T', m, D) and the steps to see (B, T').

        Args:
            seen: The current observations, (B, T, ...), where they have been read already.
        """
        net, m = self.decision, len(self.decision.kinds)
        x, seen = tokens(net, current, seen)
        memory, shown = retrieved.flatten(1, 2), piece.repeat_interleave(m, 1)
        for block, cross in zip(net.transformer.blocks, self.cross, strict=True):
            x = cross(block(x, None, None)[0], memory, shown)
        z = net.transformer.norm(x)[:, net.kinds.index(OBSERVATION) :: m]
        return net.head(z, seen.enemies)


def tokens(
    net: SequenceTransformer, slices: Trajectories, seen: Seen | None
) -> tuple[Tensor, Seen]:
    """Of trajectories (B, T, ...), each on its own: (B, T * m, D); and what they have seen."""
    if seen is None:
        seen = net.encoders.observation(slices.observations)
    chain = one_episode(slices)
    x, _ = net.tokens(chain, seen=Seen(*(part.unsqueeze(1) for part in seen)))
    return x.flatten(1, 3), seen


def outputs(net: SequenceTransformer, slices: Trajectories, seen: Seen | None = None) -> Tensor:
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
        retriever: str = "runs/embedding.ckpt",
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

    def batches(self, step: int) -> Iterator[RADTBatch]:
        while True:
            rng = np.random.default_rng([self.seed, 33, self.trainer.global_rank, step])
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


class RADTTeam(BaselineTeam):
    """Agents that look up one piece of their own past at every step."""

    def __init__(
        self,
        module: RADTModule,
        seeds: Sequence[int],
        episodes: int,
        explore: str = "sample",
        **options: Any,
    ) -> None:
        width = module.network.width
        super().__init__(module, seeds, episodes, explore, key_width=width, **options)
        self._read: list[Tensor] = []  # of each past episode, (rows, T, m, D)

    def _begin(self) -> None:
        self.retrieved = Retrieved(self.R, 0)
        rows, steps, net = len(self._run), self.spec.max_steps, self.net
        self._seen = [
            RunningSeen(part.encoders.observation, rows, steps)
            for part in (net.retriever, net.decision)
        ]
        for episode in range(len(self._read), self.episode):
            past = Trajectories(*(part[:, episode] for part in self.online.trajectories))
            self._read.append(net.read(self._tensors(past)))

    def _logits(self, active: np.ndarray) -> np.ndarray:
        current, window = self._current(active), self.module.baseline.window
        observations = self._tensor(self._now.observations[:, self._step])
        for seen in self._seen:
            seen.add(observations)
        by_retriever, by_decision = (seen.take(active) for seen in self._seen)
        own = self.net.read(current, by_retriever)
        query = keys(states(own), window)[:, -1].cpu().numpy()
        episode, end = self.look_up(active, query)
        self._count(active, episode)
        read, piece = own, np.zeros(own.shape[:2], bool)  # none in the first episode
        if self.episode:
            played = self.online.trajectories.step_mask[active, episode]
            piece = around(end, self.spec.max_steps, window) & played
            read = torch.stack(
                [
                    self._read[e][row]
                    for row, e in zip(active.tolist(), episode.tolist(), strict=True)
                ]
            )
        logits = self.net(current, read, self._tensor(piece), by_decision)[:, -1]
        return logits.double().cpu().numpy()

    def _count(self, rows: np.ndarray, episode: np.ndarray) -> None:
        run, returns = self._run[rows], np.full((len(rows), 1), np.nan)
        if self.episode:
            returns[:, 0] = self.online.team_return[rows, episode]
        self.retrieved.add(run, np.zeros(len(rows)), returns, np.full(returns.shape, -1))

    def look_up(self, rows: np.ndarray, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Own episode (Q,) and end (Q,) of the piece for each query (Q, D); episode -1 if none."""
        count = int(self.online.count[0])
        if count == 0:
            return np.full(len(rows), -1), np.zeros(len(rows), np.int64)
        valid = ends(self.online.trajectories.step_mask[rows, :count], self.module.baseline.window)
        similarity = np.einsum("retd,rd->ret", self.online.keys[rows, :count], query)
        shape = (len(rows), -1)
        similarity = np.where(valid, similarity, -np.inf).reshape(shape)
        near = np.argsort(-similarity, axis=1, kind="stable")[:, :CANDIDATES]
        similarity = np.take_along_axis(similarity, near, 1)
        returns = self.online.team_return[rows, :count, None].repeat(valid.shape[2], 2)
        returns = np.take_along_axis(returns.reshape(shape), near, 1)
        there = np.isfinite(similarity)
        score = minmax(similarity, there) + minmax(returns, there)
        best = np.take_along_axis(near, score.argmax(1)[:, None], 1)[:, 0]
        episode, end = np.divmod(best, valid.shape[2])
        return episode, end

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        super().load_state(state)
        self._read.clear()

    def _lived(self, now: Trajectories) -> Lived:
        made = keys(states(self.net.read(self._tensors(now))), self.module.baseline.window)
        return super()._lived(now)._replace(keys=made.cpu().numpy())


class RADTModule(BaselineModule):
    """RADT; arguments of `BaselineModule`."""

    kind = "radt"
    team_type = RADTTeam
    data_type = RADTData

    def make_net(self) -> nn.Module:
        return RADTransformer(self.spec, self.network)

    def setup(self, stage: str) -> None:
        """Training starts from the transformer that retrieves."""
        super().setup(stage)
        retriever = self.trainer.datamodule.retriever
        trained = load_module(retriever, MADTModule, self.spec).net.state_dict()
        self.net.retriever.load_state_dict(trained)
        self.net.decision.load_state_dict(trained)

    def training_step(self, batch: RADTBatch, batch_index: int) -> Tensor:
        length = batch.current.step_mask.sum(1) + batch.retrieved.step_mask.sum(1)

        def supervised(rows: Tensor) -> tuple[Tensor, Tensor]:
            current, retrieved = (trimmed(t.take(rows)) for t in (batch.current, batch.retrieved))
            piece = batch.piece[rows, : retrieved.actions.shape[1]]
            logits, learned = self.net(current, self.net.read(retrieved), piece), current.step_mask
            return logits[learned], current.actions[learned]

        return self.learn(*in_groups(length, supervised))

    @classmethod
    def data(cls, config: RunConfig, files: ModelFiles) -> L.LightningDataModule:
        return RADTData(
            config.family, str(files.episodes), str(files.embedding), config.baseline.window,
            config.decision.batch_size, config.seed,
        )  # fmt: skip
