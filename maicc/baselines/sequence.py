"""A causal transformer over the tokens of several episodes in a row: MADT, AT and AD.

What makes each method itself, its tokens and the order and relabelling of its episodes, is in
files of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from maicc.baselines.base import BaselineModule, BaselineTeam
from maicc.config import PolicyConfig
from maicc.memory import OnlineMemory
from maicc.models.batching import concat_by_length, trimmed
from maicc.models.heads import ActionHead
from maicc.models.observations import EncodedObservations
from maicc.models.tokens import (
    ACTION,
    OBSERVATION,
    OUTCOME,
    RETURN_TO_GO,
    TokenEncoders,
    scaled_embedding,
)
from maicc.models.transformer import KeyValues, Transformer, append, causal_mask, take_tokens
from maicc.training.chain_data import ChainBatch
from maicc.types import Spec, Trajectories


class SequenceTransformer(nn.Module):
    """Predicts the action at each observation from all tokens before it.

    Args:
        kinds: Tokens of a step, in their order.
        episodes: Most episodes in a row.
    """

    def __init__(
        self, spec: Spec, config: PolicyConfig, kinds: Sequence[int], episodes: int
    ) -> None:
        super().__init__()
        self.config, self.kinds, self.episodes = config, tuple(kinds), episodes
        self.encoders = TokenEncoders(
            spec, config.width, config.encoder, return_to_go=RETURN_TO_GO in kinds
        )
        self.place = scaled_embedding(episodes, config.width)  # of an episode in its chain
        self.transformer = Transformer(config.width, config.layers, config.heads, config.dropout)
        self.head = ActionHead(spec, config.width, config.encoder)

    def tokens(
        self,
        chain: Trajectories,
        first: int = 0,
        step: int = 0,
        seen: EncodedObservations | None = None,
    ) -> tuple[Tensor, EncodedObservations]:
        """Episodes (B, E, T, ...), the first of them at place `first` -> (B, E, T, m, D), and what
        they have seen, (B, E, T, ...).

        Args:
            step: Number of their first step.
            seen: What they have seen, where it has been read already.
        """
        e = self.encoders
        if seen is None:
            seen = e.observation(chain.observations)
        encode = {
            RETURN_TO_GO: lambda: e.encode_return_to_go(chain.return_to_go),
            OBSERVATION: lambda: seen.embedding,
            ACTION: lambda: e.encode_action(chain.actions, seen),
            OUTCOME: lambda: e.encode_outcome(chain.rewards, chain.done, chain.completed),
        }
        _, E, T = chain.actions.shape
        where = e.step.weight[step : step + T] + self.place.weight[first : first + E, None]
        return torch.stack([encode[kind]() for kind in self.kinds], 3) + where.unsqueeze(2), seen

    def forward(self, chain: Trajectories) -> Tensor:
        """Chains (B, E, T, ...) -> logits (B, E, T, A); those of steps not played mean nothing."""
        shape, m = chain.actions.shape, len(self.kinds)
        x, seen = self.tokens(chain)
        x = rearrange(x, "b e t m d -> b (e t m) d")
        # What was not played moves to the end, where causal attention never meets it
        real = rearrange(chain.step_mask, "b e t -> b (e t)").repeat_interleave(m, 1)
        order = (~real).long().argsort(dim=1, stable=True)[:, : int(real.sum(1).max())]
        y, _ = self.transformer(take_tokens(x, order))
        at = (real.cumsum(1) - 1).clamp(min=0)[:, self.kinds.index(OBSERVATION) :: m]
        z = take_tokens(y, at).unflatten(1, shape[1:])
        return self.head(z, seen.attack_targets)

    def encode(self, contexts: Trajectories) -> Past:
        """Past episodes (B, C, T, ...) -> what the running one may look back at."""
        x = rearrange(self.tokens(contexts)[0], "b e t m d -> b (e t m) d")
        there = rearrange(contexts.step_mask, "b e t -> b (e t)")
        there = there.repeat_interleave(len(self.kinds), 1)
        L = x.shape[1]
        # a token that is not there sees itself, so that its softmax is defined
        mask = causal_mask(L, device=x.device) & there.unsqueeze(1)
        mask = mask | torch.eye(L, dtype=torch.bool, device=x.device)
        return Past(self.transformer(x, mask.unsqueeze(1))[1], there)

    def decide(
        self, current: Trajectories, past: Past | None, place: int, known: int = 0
    ) -> tuple[Tensor, Past]:
        """Logits (B, A) of the last step of the running episodes, and what the next may look at.

        Args:
            past: What was seen before, or None: episodes, and steps of the running one.
            place: How many those episodes are.
            known: How many those steps are; the last of them up to its observation.
        """
        step = max(known - 1, 0)
        chain = one_episode(Trajectories(*(part[:, step:] for part in current)))
        x, seen = self.tokens(chain, place, step)
        x = rearrange(x, "b 1 t m d -> b (t m) d")
        observed = self.kinds.index(OBSERVATION) + 1
        x = x[:, observed if known else 0 : x.shape[1] - len(self.kinds) + observed]
        B, L = x.shape[:2]
        mask, there = None, torch.ones(B, L, dtype=torch.bool, device=x.device)
        if past is not None:
            own = causal_mask(L, device=x.device).expand(B, L, L)
            mask = torch.cat([past.there.unsqueeze(1).expand(B, L, -1), own], 2).unsqueeze(1)
            there = torch.cat([past.there, there], 1)
        where = torch.full((B, 1), L - 1, device=x.device)
        z, own = self.transformer(x, mask, past.kept if past else None, where)
        logits = self.head(z[:, 0], seen.attack_targets[:, 0, -1])
        return logits, Past(append(past.kept if past else None, own), there)


class Past(NamedTuple):
    """What later tokens may look back at."""

    kept: KeyValues
    there: Tensor  # (B, tokens) bool, False where a token stands for a step that was not played

    def take(self, rows: Tensor) -> Past:
        return Past([(keys[rows], values[rows]) for keys, values in self.kept], self.there[rows])


def one_episode(slices: Trajectories) -> Trajectories:
    """Trajectories (B, T, ...) as chains of one episode each: (B, 1, T, ...)."""
    return Trajectories(*(part.unsqueeze(1) for part in slices))


class SequenceTeam(BaselineTeam):
    """Agents that see the running episode, and of those before what the method shows them."""

    def on_episode_start(self) -> None:
        contexts = self.module.contexts(self.online) if self.episode else None
        self._place, self._before = 0, None
        if contexts is not None:
            self._place = contexts.actions.shape[1]
            with torch.no_grad():
                self._before = self.net.encode(trimmed(self._tensors(contexts)))
        self._past: Past | None = None  # of the rows `_asked`, in all steps before this one
        self._asked = np.zeros(0, np.int64)

    def logits(self, active: np.ndarray) -> np.ndarray:
        if self._step and np.isin(active, self._asked).all():
            # the others are dead or done; what they saw is dropped with many of them at a time
            if len(active) < 0.8 * len(self._asked):
                kept = torch.from_numpy(np.flatnonzero(np.isin(self._asked, active)))
                self._past, self._asked = self._past.take(kept.to(self.device)), active
            known, past = self._step, self._past
        else:
            known, past, self._asked = 0, self._before, active
            if past is not None and len(active) < len(self._run):
                past = past.take(torch.from_numpy(active).to(self.device))
        logits, self._past = self.net.decide(self._current(self._asked), past, self._place, known)
        asked = np.isin(self._asked, active)
        return logits.double().cpu().numpy()[asked]


class SequenceModule(BaselineModule):
    """Trains a `SequenceTransformer` on the steps of its chains; arguments of `BaselineModule`."""

    team_type = SequenceTeam
    kinds: ClassVar[tuple[int, ...]]  # of token

    def make_net(self) -> nn.Module:
        places = self.places(self.config)
        return SequenceTransformer(self.spec, self.config, self.kinds, places)

    @classmethod
    def places(cls, model: Any) -> int:
        """Most episodes in a row."""
        return model.episodes

    def prepare(self, batch: ChainBatch) -> tuple[Trajectories, Tensor]:
        """The chains as the model sees them, and (B, E, T) the steps whose actions it learns."""
        return batch.chain, batch.chain.step_mask

    def training_step(self, batch: ChainBatch, batch_index: int) -> Tensor:
        chain, learned = self.prepare(batch)

        def supervised(rows: Tensor) -> tuple[Tensor, Tensor]:
            part = trimmed(chain.take(rows))
            mask = learned[rows, :, : part.actions.shape[2]]
            return self.net(part)[mask], part.actions[mask]

        return self.learn(*concat_by_length(chain.step_mask.sum((1, 2)), supervised))

    def contexts(self, online: OnlineMemory) -> Trajectories | None:
        """The episodes before the running one, as the model sees them: (rows, C, T, ...) arrays."""
        return None


def latest(online: OnlineMemory, most: int) -> Trajectories | None:
    """The last episodes of each row, `most` of them, the oldest first: (rows, C, T, ...)."""
    count = int(online.count[0])
    first = max(count - most, 0)
    if first == count:
        return None
    return Trajectories(*(part[:, first:count] for part in online.trajectories))
