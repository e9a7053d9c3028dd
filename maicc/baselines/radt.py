"""RADT, the retrieval-augmented decision transformer (Schmied et al. 2024).

A decision transformer (MADT) is trained first. A frozen copy of it retrieves: the key of a piece of
a trajectory is the normalised mean of the copy's outputs at the latest observations. A second copy,
with a cross-attention after every layer, is trained further. It reads one retrieved piece, as the
outputs of the frozen copy. At test time an agent retrieves at every step, from its own episodes
only. It takes the piece with the best sum of likeness to the present and of return.
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
from maicc.teams.lockstep import EpisodeKeys
from maicc.teams.lookups import LookupStats
from maicc.teams.running import EpisodeEncoder
from maicc.training.checkpoints import load_module
from maicc.training.family_data import FamilyData
from maicc.types import Spec, Trajectories


class CrossAttention(nn.Module):
    """Attention of each token over the retrieved piece; the result is added to the token."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor, piece: Tensor, piece_mask: Tensor) -> Tensor:
        """Adds to each token what attention gathers from the piece; nothing where it is empty.

        Args:
            x: (B, L, D) tokens.
            piece: (B, S, D) tokens of the retrieved trajectory.
            piece_mask: (B, S) bool, True at tokens of the piece.

        Returns:
            (B, L, D).
        """
        q = rearrange(self.query(self.norm(x)), "b l (h d) -> b h l d", h=self.heads)
        k, v = rearrange(self.key_value(piece), "b s (two h d) -> two b h s d", two=2, h=self.heads)
        has_piece = piece_mask.any(1)
        mask = (piece_mask | ~has_piece[:, None])[:, None, None].expand(-1, 1, x.shape[1], -1)
        gathered = rearrange(attend(q, k, v, mask), "b h l d -> b l (h d)")
        return x + self.project(gathered) * has_piece[:, None, None]


class RADTransformer(nn.Module):
    """Frozen retriever, and the decision transformer that reads the retrieved piece."""

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
        """Sets the mode of the decision transformer; the frozen retriever stays in evaluation."""
        super().train(mode)
        self.retriever.eval()  # its outputs do not change
        return self

    @torch.no_grad()
    def read(self, slices: Trajectories, encoded: EncodedObservations | None = None) -> Tensor:
        """Computes the retriever's outputs (B, T, m, D) on trajectories (B, T, ...).

        Args:
            encoded: Their observations (B, T, ...), if they are encoded already.
        """
        return outputs(self.retriever, slices, encoded)

    def forward(
        self,
        current: Trajectories,
        retrieved: Tensor,
        piece: Tensor,
        encoded: EncodedObservations | None = None,
    ) -> Tensor:
        """Computes logits (B, T, A) of current trajectories.

        Args:
            current: (B, T, ...).
            retrieved: (B, T', m, D) outputs of `read` on the retrieved trajectories.
            piece: (B, T') bool, True at the steps of the piece.
            encoded: The current observations (B, T, ...), if they are encoded already.
        """
        net, m = self.decision, len(self.decision.kinds)
        x, encoded = tokens(net, current, encoded)
        memory, piece_mask = retrieved.flatten(1, 2), piece.repeat_interleave(m, 1)
        for block, cross in zip(net.transformer.blocks, self.cross, strict=True):
            x = cross(block(x, None, None)[0], memory, piece_mask)
        z = net.transformer.norm(x)[:, net.kinds.index(OBSERVATION) :: m]
        return net.head(z, encoded.attack_targets)


class RADTTeam(BaselineTeam):
    """Agents that look up a piece of their own past at every step; arguments of `BaselineTeam`."""

    net: RADTransformer

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
        self._past_outputs: list[Tensor] = []  # of `read`, by past episode, (rows, T, m, D)

    def on_episode_start(self) -> None:
        """Reads the episodes that are new in memory."""
        self.lookups = LookupStats(self.R, 0)
        rows, steps, net = len(self._run), self.spec.max_steps, self.net
        self._running_encoders = [
            EpisodeEncoder(part.encoders.observation, rows, steps)
            for part in (net.retriever, net.decision)
        ]
        for episode in range(len(self._past_outputs), self.episode):
            past = self.online.trajectories.take(np.s_[:, episode])
            self._past_outputs.append(net.read(self._tensors(past)))

    def logits(self, active: np.ndarray) -> np.ndarray:
        """Computes the logits (Q, A) of the `active` rows, each with the piece it looks up."""
        current, window = self._current(active), self.module.config.window
        observations = self._tensor(self._now.observations[:, self._step])
        for encoder in self._running_encoders:
            encoder.add(observations)
        by_retriever, by_decision = (encoder.take(active) for encoder in self._running_encoders)
        current_outputs = self.net.read(current, by_retriever)
        query = keys(states(current_outputs), window)[:, -1].cpu().numpy()
        episode, end = self.look_up(active, query)
        self._count(active, episode)
        # in the first episode there is no piece
        retrieved, piece = current_outputs, np.zeros(current_outputs.shape[:2], bool)
        if self.episode:
            played = self.online.trajectories.step_mask[active, episode]
            piece = around(end, self.spec.max_steps, window) & played
            retrieved = torch.stack(
                [
                    self._past_outputs[e][row]
                    for row, e in zip(active.tolist(), episode.tolist(), strict=True)
                ]
            )
        logits = self.net(current, retrieved, self._tensor(piece), by_decision)[:, -1]
        return logits.double().cpu().numpy()

    def _count(self, rows: np.ndarray, episode: np.ndarray) -> None:
        """Counts the look-ups of `rows` (Q,), which gave pieces of own episodes (Q,)."""
        assert self.lookups is not None
        run, returns = self._run[rows], np.full((len(rows), 1), np.nan)
        if self.episode:
            returns[:, 0] = self.online.team_return[rows, episode]
        self.lookups.add(run, np.zeros(len(rows)), returns, np.full(returns.shape, -1))

    def look_up(self, rows: np.ndarray, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Looks up the best piece for each query among the row's own episodes.

        Args:
            rows: (Q,).
            query: (Q, D), unit norm.

        Returns:
            (Q,) number of the piece's episode, -1 if there is none; (Q,) step at which it ends.
        """
        count = self.online.count
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
        exists = np.isfinite(similarity)
        score = minmax(similarity, exists) + minmax(returns, exists)
        best = np.take_along_axis(near, score.argmax(1)[:, None], 1)[:, 0]
        episode, end = np.divmod(best, valid.shape[2])
        return episode, end

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Takes over a memory from `state`; its episodes are read anew."""
        super().load_state(state)
        self._past_outputs.clear()

    def make_keys(self, now: Trajectories) -> EpisodeKeys:
        """Makes the record of the finished episode, with a key for each step."""
        read = self.net.read(self._tensors(now))
        step_keys = keys(states(read), self.module.config.window)
        return super().make_keys(now)._replace(keys=step_keys.cpu().numpy())


class RADTModule(BaselineModule):
    """Trains RADT; arguments of `BaselineModule`."""

    net: RADTransformer
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
        """Starts both transformers from the trained retriever."""
        super().setup(stage)
        retriever = self.data_module.retriever
        trained = load_module(retriever, MADTModule, self.spec).net.state_dict()
        self.net.retriever.load_state_dict(trained)
        self.net.decision.load_state_dict(trained)

    def losses(self, batch: RADTBatch) -> dict[str, Tensor]:
        """Computes the loss of the current trajectories' actions, given the retrieved pieces."""
        length = batch.current.step_mask.sum(1) + batch.retrieved.step_mask.sum(1)

        def supervised(rows: Tensor) -> tuple[Tensor, Tensor]:
            current, retrieved = (trimmed(t.take(rows)) for t in (batch.current, batch.retrieved))
            piece = batch.piece[rows, : retrieved.actions.shape[1]]
            logits, mask = self.net(current, self.net.read(retrieved), piece), current.step_mask
            return logits[mask], current.actions[mask]

        return self.imitation(*concat_by_length(length, supervised))

    @classmethod
    def data(cls, config: Any, files: ModelFiles) -> FamilyData:
        """Makes the data module of trajectories with retrieved pieces."""
        fit = config.decision
        return RADTData(
            config.family, str(files.episodes), str(files["retriever"]), fit.model.window,
            fit.batch_size, config.seed, fit.held_back, fit.short_query,
        )  # fmt: skip
