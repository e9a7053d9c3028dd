"""The decision transformer: retrieved trajectories and the current one give the next action.

METHOD.md, section 6: four tokens per step and contexts concatenated, as in the paper, or one fused
token per step and each context encoded on its own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from maicc.config import DecisionConfig
from maicc.models.batching import concat_by_length, trimmed
from maicc.models.heads import ActionHead
from maicc.models.observations import EncodedObservations
from maicc.models.tokens import TokenEncoders, scaled_embedding
from maicc.models.transformer import KeyValues, Transformer, causal_mask, take_tokens
from maicc.types import Spec, Trajectories


class DecisionBatch(NamedTuple):
    """Queries with what was retrieved for them."""

    current: Trajectories  # (Q, T, ...) tensors: whole trajectories, the prefix and what followed
    contexts: Trajectories  # (Q, K, T, ...)
    step: Tensor  # (Q,) int64, the step whose prefix was the query
    expert: Tensor  # (Q, T) int64, what the best behaviour policy would have done; -1 unknown

    def take(self, rows: Tensor) -> DecisionBatch:
        """These queries, padded to the longest of them."""
        current, contexts = trimmed(self.current.take(rows)), trimmed(self.contexts.take(rows))
        steps = current.actions.shape[1]
        return DecisionBatch(current, contexts, self.step[rows], self.expert[rows, :steps])


class DecisionTransformer(nn.Module):
    """Predicts an agent's action at each step of its current trajectory.

    With `context: independent` the keys and values of a stored trajectory depend on nothing else:
    `encode_contexts` makes them once, `decide` uses them.
    """

    def __init__(self, spec: Spec, config: DecisionConfig) -> None:
        super().__init__()
        self.config = config
        self.encoders = TokenEncoders(spec, config.width, config.encoder)
        self.role = scaled_embedding(2, config.width)  # 0 context, 1 current
        self.transformer = Transformer(config.width, config.layers, config.heads, config.dropout)
        self.head = ActionHead(spec, config.width, config.encoder)

    def forward(
        self, current: Trajectories, contexts: Trajectories, seen: EncodedObservations | None = None
    ) -> Tensor:
        """current (Q, T, ...), contexts (Q, K, T', ...) -> logits (Q, T, A).

        Args:
            seen: The current observations, (Q, T, ...), where they have been read already.
        """
        K = contexts.actions.shape[1]
        if self.config.k != K:
            raise ValueError(
                f"context has {K} trajectories, the model was trained with {self.config.k}; "
                f"set decision.model.k={self.config.k}"
            )
        if seen is None:
            seen = self.encoders.observation(current.observations)
        if K == 0:
            return self.decide(current, seen, None, None)
        if self.config.context == "concatenated":
            return self._concatenated(current, seen, contexts)
        flat = Trajectories(*(part.flatten(0, 1) for part in contexts))
        past = [
            (self._side_by_side(k, K), self._side_by_side(v, K))
            for k, v in self.encode_contexts(flat)
        ]
        return self.decide(current, seen, past, self.visible(contexts.step_mask))

    def encode_contexts(self, contexts: Trajectories) -> KeyValues:
        """(B, T, ...) -> keys and values per layer, each (B, heads, tokens, width / heads)."""
        return self.transformer(self._context_tokens(contexts))[1]

    def visible(self, step_mask: Tensor) -> Tensor:
        """(Q, K, T) steps that were played -> (Q, K * tokens) tokens that may be seen."""
        per_step = 1 if self.config.tokens == "fused" else 4
        return repeat(step_mask, "q k t -> q (k t m)", m=per_step)

    def decide(
        self,
        current: Trajectories,
        seen: EncodedObservations,
        past: KeyValues | None,
        visible: Tensor | None,
        *,
        last: bool = False,
    ) -> Tensor:
        """Logits (Q, T, A) given the contexts' keys and values (Q, heads, P, ...) and (Q, P).

        Args:
            seen: The current observations, (Q, T, ...).
            last: Of the last step only: (Q, 1, A).
        """
        x, mask = self._current_tokens(current, seen), None
        Q, L = x.shape[:2]
        if past is not None:
            own = causal_mask(L, device=x.device).expand(Q, L, L)
            before = visible.unsqueeze(1).expand(Q, L, -1)
            mask = torch.cat([before, own], 2).unsqueeze(1)
        at, targets = self._read(torch.arange(L, device=x.device).expand(Q, L)), seen.attack_targets
        if last:
            at, targets = at[:, -1:], targets[:, -1:]
        everywhere = at.shape[1] == L
        y, _ = self.transformer(x, mask, past, None if everywhere else at)
        return self.head(y, targets)

    def _concatenated(
        self, current: Trajectories, seen: EncodedObservations, contexts: Trajectories
    ) -> Tensor:
        before = rearrange(self._context_tokens(contexts), "q k l d -> q (k l) d")
        own = self._current_tokens(current, seen)
        # Padding moves to the end, where plain causal attention, the fast path, never meets it:
        # where a token stands is told by its embedding alone.
        visible = self.visible(contexts.step_mask)
        real = F.pad(visible, (0, own.shape[1]), value=True)
        order = (~real).long().argsort(dim=1, stable=True)[:, : int(real.sum(1).max())]
        x = take_tokens(torch.cat([before, own], 1), order)
        own_at = torch.arange(own.shape[1], device=own.device).expand(len(own), -1)
        at = visible.sum(1, keepdim=True) + self._read(own_at)
        return self.head(self.transformer(x, at=at)[0], seen.attack_targets)

    @staticmethod
    def _side_by_side(kept: Tensor, K: int) -> Tensor:
        return rearrange(kept, "(q k) h l d -> q h (k l) d", k=K)

    def _kinds(self, t: Trajectories, seen: EncodedObservations) -> list[Tensor]:
        e = self.encoders
        return [
            e.encode_return_to_go(t.return_to_go),
            seen.embedding,
            e.encode_action(t.actions, seen),
            e.encode_outcome(t.rewards, t.done, t.completed),
        ]

    def _context_tokens(self, t: Trajectories) -> Tensor:
        """(..., T, ...) -> (..., tokens, D)."""
        step = self.encoders.step.weight[: t.actions.shape[-1]] + self.role.weight[0]
        kinds = self._kinds(t, self.encoders.observation(t.observations))
        if self.config.tokens == "fused":
            return sum(kinds) + step
        return rearrange(torch.stack(kinds, -2) + step[:, None], "... t m d -> ... (t m) d")

    def _current_tokens(self, t: Trajectories, seen: EncodedObservations) -> Tensor:
        """(Q, T, ...) -> (Q, tokens, D); a fused token holds the PREVIOUS action and outcome."""
        step = self.encoders.step.weight[: t.actions.shape[-1]] + self.role.weight[1]
        g, o, a, p = self._kinds(t, seen)
        if self.config.tokens == "fused":
            return g + o + F.pad((a + p)[:, :-1], (0, 0, 1, 0)) + step
        return rearrange(torch.stack([g, o, a, p], 2) + step[:, None], "q t m d -> q (t m) d")

    def _read(self, y: Tensor) -> Tensor:
        """The tokens at which the action is read, each step's observation."""
        return y if self.config.tokens == "fused" else y[:, 1::4]

    def loss(self, batch: DecisionBatch) -> tuple[Tensor, Tensor]:
        """Cross-entropy over the supervised steps, and the share of them predicted right."""
        length = batch.current.step_mask.sum(1) + batch.contexts.step_mask.sum((1, 2))
        chosen, actions = concat_by_length(length, lambda rows: self._supervised(batch.take(rows)))
        loss = F.cross_entropy(chosen, actions, label_smoothing=self.config.label_smoothing)
        return loss, (chosen.argmax(-1) == actions).float().mean()

    def _supervised(self, batch: DecisionBatch) -> tuple[Tensor, Tensor]:
        """Logits (S, A) and labels (S,) of the steps whose actions are learned."""
        logits = self(batch.current, batch.contexts)
        mask = batch.current.step_mask
        if self.config.supervise == "last":
            mask = mask & (torch.arange(mask.shape[1], device=mask.device) == batch.step[:, None])
        actions = batch.current.actions
        if self.config.labels == "expert":
            actions = batch.expert
            mask = mask & (actions >= 0)
        return logits[mask], actions[mask]
