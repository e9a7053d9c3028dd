"""A causal transformer over the tokens of several episodes in a row: MADT, AT and AD.

What makes each method itself, its tokens and the order and relabelling of its episodes, is in
files of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from maicc.baselines.base import BaselineModule, BaselineTeam
from maicc.baselines.chains import ChainBatch
from maicc.config import BaselineConfig, DecisionConfig
from maicc.encoders import ActionHead
from maicc.lengths import in_groups, trimmed
from maicc.memory import OnlineMemory
from maicc.tokens import ACTION, OBSERVATION, OUTCOME, RETURN_TO_GO, TokenEncoders, table
from maicc.transformer import KeyValues, Transformer, causal_mask, take_tokens
from maicc.types import Spec, Trajectories


class SequenceTransformer(nn.Module):
    """Predicts the action at each observation from all tokens before it.

    Args:
        kinds: Tokens of a step, in their order.
        episodes: Most episodes in a row.
    """

    def __init__(
        self, spec: Spec, config: DecisionConfig, kinds: Sequence[int], episodes: int
    ) -> None:
        super().__init__()
        self.config, self.kinds, self.episodes = config, tuple(kinds), episodes
        self.encoders = TokenEncoders(
            spec, config.width, config.encoder, return_to_go=RETURN_TO_GO in kinds
        )
        self.place = table(episodes, config.width)  # of an episode in its chain
        self.transformer = Transformer(config.width, config.layers, config.heads, config.dropout)
        self.head = ActionHead(spec, config.width, config.encoder)

    def tokens(self, chain: Trajectories, first: int = 0) -> Tensor:
        """Episodes (B, E, T, ...), the first of them at place `first` -> (B, E, T, m, D)."""
        e = self.encoders
        encode = {
            RETURN_TO_GO: lambda: e.encode_return_to_go(chain.return_to_go),
            OBSERVATION: lambda: e.observation(chain.observations),
            ACTION: lambda: e.encode_action(chain.actions, chain.observations),
            OUTCOME: lambda: e.encode_outcome(chain.rewards, chain.done, chain.completed),
        }
        _, E, T = chain.actions.shape
        where = e.step.weight[:T] + self.place.weight[first : first + E, None]
        return torch.stack([encode[kind]() for kind in self.kinds], 3) + where.unsqueeze(2)

    def forward(self, chain: Trajectories) -> Tensor:
        """Chains (B, E, T, ...) -> logits (B, E, T, A); those of steps not played mean nothing."""
        shape, m = chain.actions.shape, len(self.kinds)
        x = rearrange(self.tokens(chain), "b e t m d -> b (e t m) d")
        # What was not played moves to the end, where causal attention never meets it
        real = rearrange(chain.step_mask, "b e t -> b (e t)").repeat_interleave(m, 1)
        order = (~real).long().argsort(dim=1, stable=True)[:, : int(real.sum(1).max())]
        y, _ = self.transformer(take_tokens(x, order))
        at = (real.cumsum(1) - 1).clamp(min=0)[:, self.kinds.index(OBSERVATION) :: m]
        z = take_tokens(y, at).unflatten(1, shape[1:])
        return self.head(z, chain.observations, self.encoders.observation)

    def encode(self, contexts: Trajectories) -> tuple[KeyValues, Tensor]:
        """Past episodes (B, C, T, ...) -> keys and values per layer, and (B, tokens) what may be
        seen."""
        x = rearrange(self.tokens(contexts), "b e t m d -> b (e t m) d")
        seen = rearrange(contexts.step_mask, "b e t -> b (e t)")
        seen = seen.repeat_interleave(len(self.kinds), 1)
        L = x.shape[1]
        # a token that is not there sees itself, so that its softmax is defined
        mask = causal_mask(L, device=x.device) & seen.unsqueeze(1)
        mask = mask | torch.eye(L, dtype=torch.bool, device=x.device)
        return self.transformer(x, mask.unsqueeze(1))[1], seen

    def decide(
        self, current: Trajectories, past: tuple[KeyValues, Tensor] | None, place: int
    ) -> Tensor:
        """Logits (B, A) of the last step of the running episodes (B, T, ...).

        Args:
            past: What `encode` gave of the episodes before, or None.
            place: How many those are.
        """
        x = rearrange(self.tokens(one_episode(current), place), "b 1 t m d -> b (t m) d")
        B, L = x.shape[:2]
        at = L - len(self.kinds) + self.kinds.index(OBSERVATION)
        mask = None
        if past is not None:
            own = causal_mask(L, device=x.device).expand(B, L, L)
            mask = torch.cat([past[1].unsqueeze(1).expand(B, L, -1), own], 2).unsqueeze(1)
        where = torch.full((B, 1), at, device=x.device)
        z = self.transformer(x, mask, past[0] if past else None, where)[0][:, 0]
        return self.head(z, current.observations[:, -1], self.encoders.observation)


def one_episode(slices: Trajectories) -> Trajectories:
    """Trajectories (B, T, ...) as chains of one episode each: (B, 1, T, ...)."""
    return Trajectories(*(part.unsqueeze(1) for part in slices))


class SequenceTeam(BaselineTeam):
    """Agents that see the running episode, and of those before what the method shows them."""

    def _begin(self) -> None:
        contexts = self.module.contexts(self.online) if self.episode else None
        self._place, self._past = 0, None
        if contexts is not None:
            self._place = contexts.actions.shape[1]
            with torch.no_grad():
                self._past = self.net.encode(self._tensors(contexts))

    def _logits(self, active: np.ndarray) -> np.ndarray:
        past = self._past
        if past is not None and len(active) < len(self._run):
            at = torch.from_numpy(active).to(self.device)
            past = [(keys[at], values[at]) for keys, values in past[0]], past[1][at]
        logits = self.net.decide(self._current(active), past, self._place)
        return logits.double().cpu().numpy()


class SequenceModule(BaselineModule):
    """Trains a `SequenceTransformer` on the steps of its chains; arguments of `BaselineModule`."""

    team_type = SequenceTeam
    kinds: ClassVar[tuple[int, ...]]  # of token

    def make_net(self) -> nn.Module:
        places = self.places(self.baseline)
        return SequenceTransformer(self.spec, self.network, self.kinds, places)

    @classmethod
    def places(cls, baseline: BaselineConfig) -> int:
        """Most episodes in a row."""
        return baseline.episodes

    def prepare(self, batch: ChainBatch) -> tuple[Trajectories, Tensor]:
        """The chains as the model sees them, and (B, E, T) the steps whose actions it learns."""
        return batch.chain, batch.chain.step_mask

    def training_step(self, batch: ChainBatch, batch_index: int) -> Tensor:
        chain, learned = self.prepare(batch)

        def supervised(rows: Tensor) -> tuple[Tensor, Tensor]:
            part = trimmed(chain.take(rows))
            mask = learned[rows, :, : part.actions.shape[2]]
            return self.net(part)[mask], part.actions[mask]

        return self.learn(*in_groups(chain.step_mask.sum((1, 2)), supervised))

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
