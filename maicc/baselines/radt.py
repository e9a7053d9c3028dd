"""RADT, the retrieval-augmented decision transformer (Schmied et al. 2024).

A decision transformer (MADT) is trained first. A frozen copy retrieves: the key of a piece of a
trajectory is the normalised mean of the copy's outputs at the latest observations. A second copy,
with a cross-attention after every layer, is trained on with the one piece that was retrieved, seen
through the frozen copy. At test time an agent retrieves from its own episodes only, at every step:
the piece that is most like the present and had the highest return.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from maicc.baselines.base import BaselineModule, BaselineTeam
from maicc.baselines.madt import MADTModule
from maicc.baselines.options import RADTConfig
from maicc.baselines.radt_pieces import (
    CANDIDATES,
    RADTBatch,
    RADTData,
    around,
    ends,
    keys,
    minmax,
    outputs,
    states,
    tokens,
)
from maicc.baselines.sequence import SequenceTransformer
from maicc.config import OptimiserConfig, PolicyConfig
from maicc.files import ModelFiles
from maicc.models.batching import concat_by_length, trimmed
from maicc.models.observations import EncodedObservations
from maicc.models.tokens import OBSERVATION
from maicc.models.transformer import attend, initialise
from maicc.teams.lockstep import EpisodeRecord
from maicc.teams.lookups import LookupStats
from maicc.teams.running import EpisodeEncoder
from maicc.training.family_data import FamilyData
from maicc.training.modules import load_module
from maicc.types import Spec, Trajectories


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

    def __init__(self, spec: Spec, config: PolicyConfig) -> None:
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
    def read(self, slices: Trajectories, seen: EncodedObservations | None = None) -> Tensor:
        """The retriever's outputs (B, T, m, D)."""
        return outputs(self.retriever, slices, seen)

    def forward(
        self,
        current: Trajectories,
        retrieved: Tensor,
        piece: Tensor,
        seen: EncodedObservations | None = None,
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
        return net.head(z, seen.attack_targets)


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
        width = module.config.width
        super().__init__(module, seeds, episodes, explore, key_width=width, **options)
        self._read: list[Tensor] = []  # of each past episode, (rows, T, m, D)

    def on_episode_start(self) -> None:
        self.lookups = LookupStats(self.R, 0)
        rows, steps, net = len(self._run), self.spec.max_steps, self.net
        self._seen = [
            EpisodeEncoder(part.encoders.observation, rows, steps)
            for part in (net.retriever, net.decision)
        ]
        for episode in range(len(self._read), self.episode):
            past = Trajectories(*(part[:, episode] for part in self.online.trajectories))
            self._read.append(net.read(self._tensors(past)))

    def logits(self, active: np.ndarray) -> np.ndarray:
        current, window = self._current(active), self.module.config.window
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
        self.lookups.add(run, np.zeros(len(rows)), returns, np.full(returns.shape, -1))

    def look_up(self, rows: np.ndarray, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Own episode (Q,) and end (Q,) of the piece for each query (Q, D); episode -1 if none."""
        count = int(self.online.count[0])
        if count == 0:
            return np.full(len(rows), -1), np.zeros(len(rows), np.int64)
        valid = ends(self.online.trajectories.step_mask[rows, :count], self.module.config.window)
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

    def record(self, now: Trajectories) -> EpisodeRecord:
        made = keys(states(self.net.read(self._tensors(now))), self.module.config.window)
        return super().record(now)._replace(keys=made.cpu().numpy())


class RADTModule(BaselineModule):
    """RADT; arguments of `BaselineModule`."""

    kind = "radt"
    config_type = RADTConfig
    team_type = RADTTeam
    data_type = RADTData

    def __init__(
        self,
        spec: Spec | None = None,
        model: RADTConfig = RADTConfig(),  # noqa: B008 - never changed
        optimiser: OptimiserConfig = OptimiserConfig(),  # noqa: B008
    ) -> None:
        super().__init__(spec, model, optimiser)

    def make_net(self) -> nn.Module:
        return RADTransformer(self.spec, self.config)

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

        return self.learn(*concat_by_length(length, supervised))

    @classmethod
    def data(cls, config: Any, files: ModelFiles) -> FamilyData:
        fit = config.decision
        return RADTData(
            config.family, str(files.episodes), str(files["retriever"]), fit.model.window,
            fit.batch_size, config.seed,
        )  # fmt: skip
