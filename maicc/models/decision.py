"""The decision transformer: what an agent remembers and its current trajectory give an action.

It reads up to three sources, each marked by an embedding of its own: the current trajectory, k
retrieved ones, and the record, past episodes of the agent's own. METHOD.md, sections 6 and 12:
four tokens per step and contexts concatenated, as in the paper, or one fused token per step and
each context encoded on its own. An episode of the record is always encoded on its own.
"""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from maicc.config import DecisionConfig
from maicc.models.batching import concat_by_length, split_by_length, take_where, trimmed
from maicc.models.heads import (
    ActionHead,
    ImitationLosses,
    hidden_errors,
    hidden_head,
    imitation_losses,
)
from maicc.models.observations import EncodedObservations
from maicc.models.past import Past, read_on
from maicc.models.record import packed, paid_in_between, step_tokens, transitions
from maicc.models.tokens import TokenEncoders, scaled_embedding
from maicc.models.transformer import Transformer, take_tokens
from maicc.types import Spec, Trajectories, UserError


class DecisionBatch(NamedTuple):
    """Queries and the trajectories that were retrieved for them."""

    current: Trajectories  # (Q, T, ...) tensors: whole trajectories, the prefix and what followed
    contexts: Trajectories  # (Q, K, T, ...)
    step: Tensor  # (Q,) int64, the step whose prefix was the query
    expert: Tensor  # (Q, T) int64, what the best behaviour policy would have done; -1 unknown
    record: Trajectories | None = None  # (n, T, ...) past episodes, of all agents in the batch
    shown: Tensor | None = None  # (Q, E) int64, which of them are in a query's record; -1 none
    hidden: Tensor | None = None  # (Q, R) the hidden part of the task, where it is told in training

    @property
    def length(self) -> Tensor:
        """Steps of each query (Q,): of its record, or of its trajectories without one."""
        if self.record is not None and self.shown is not None:
            steps = F.pad(self.record.step_mask.sum(1), (0, 1))  # the last, of none, is 0
            return steps[self.shown].sum(1)
        return self.current.step_mask.sum(1) + self.contexts.step_mask.sum((1, 2))


class DecisionTransformer(nn.Module):
    """Model that predicts an agent's action at each step of its current trajectory.

    With `context: independent` the keys and values of a stored trajectory depend on nothing else,
    and so do those of an episode of the record. `encode_contexts` and `encode_episodes` make them
    once, and `extend` uses them.
    """

    training_only = ("infer",)

    def __init__(self, spec: Spec, config: DecisionConfig) -> None:
        super().__init__()
        if config.record and config.context == "concatenated":
            raise UserError(
                "decision.model.record needs decision.model.context=independent, or 0 episodes"
            )
        self.config = config
        self.encoders = TokenEncoders(spec, config.width, config.encoder)
        # sources: 0 context, 1 current, 2 record
        self.role = scaled_embedding(3 if config.record else 2, config.width)
        self.transformer = Transformer(config.width, config.layers, config.heads, config.dropout)
        self.head = ActionHead(spec, config.width, config.encoder)
        self.following = nn.Linear(config.width, config.width) if config.record else None
        self.infer = hidden_head(spec, config.width, config.hidden_weight)

    def forward(
        self,
        current: Trajectories,
        contexts: Trajectories,
        encoded: EncodedObservations | None = None,
        record: Trajectories | None = None,
        shown: Tensor | None = None,
    ) -> Tensor:
        """Logits (Q, T, A) of the action at each step of the current trajectories.

        Args:
            current: (Q, T, ...).
            contexts: (Q, K, T', ...).
            encoded: (Q, T, ...) the current observations, where they have been read already.
            record: (n, T, ...) past episodes of the agents.
            shown: (Q, E) int64, which of them are in each query's record; -1 is none.

        Raises:
            ValueError: K is not the number of contexts the model was made for, or a record is
                missing, or is given to a model without one.
        """
        self._check(contexts, record)
        if encoded is None:
            encoded = self.encoders.observation(current.observations)
        remembered = None if record is None else self.encode_record(record)
        y = self._outputs(current, contexts, encoded, remembered, shown)
        return self.head(y, encoded.attack_targets)

    def _check(self, contexts: Trajectories, record: Trajectories | None) -> None:
        """Checks that there are as many contexts as the model takes, and a record if it reads one.

        Raises:
            ValueError: names the option.
        """
        K = contexts.actions.shape[1]
        if self.config.k != K:
            raise ValueError(
                f"context has {K} trajectories, the model was trained with {self.config.k}; "
                f"set decision.model.k={self.config.k}"
            )
        if bool(self.config.record) != (record is not None):
            raise ValueError(
                f"the model was trained with decision.model.record={self.config.record}"
            )

    def _outputs(
        self,
        current: Trajectories,
        contexts: Trajectories,
        encoded: EncodedObservations,
        remembered: Past | None,
        shown: Tensor | None,
    ) -> Tensor:
        """Outputs (Q, T, D), see `forward`; episodes of the record are encoded already."""
        K = contexts.actions.shape[1]
        if K and self.config.context == "concatenated":
            return self._concatenated(current, encoded, contexts)
        past = None
        if remembered is not None and shown is not None:
            past = remembered.joined(shown)
        if K:
            read = self.encode_contexts(contexts.each(lambda part: part.flatten(0, 1)))
            rows = torch.arange(len(read.visible), device=read.visible.device).unflatten(0, (-1, K))
            past = read.joined(rows).after(past)
        x = self._current_tokens(current, encoded)
        return read_on(self.transformer, x, past, self._action_positions)[0]

    def encode_record(self, episodes: Trajectories) -> Past | None:
        """Encodes past episodes (n, T, ...) as `encode_episodes` does; None where there are none.

        Only episodes of about one length are read together.
        """
        if not len(episodes.actions):
            return None
        groups = split_by_length(episodes.step_mask.sum(1))
        read = [self.encode_episodes(trimmed(episodes.take(group))) for group in groups]
        return reduce(Past.with_rows_of, read).take(torch.cat(groups).argsort())

    def encode_episodes(self, episodes: Trajectories) -> Past:
        """Encodes past episodes (n, T, ...), each on its own.

        Of an episode with more than its share of `record_steps` every so many-th step is read, the
        last one in any case. Each is paid what was paid since the one before it.

        Returns:
            n rows of T tokens, or of as many as that share.
        """
        assert self.following is not None
        steps = transitions(episodes.each(lambda part: part.unsqueeze(1)))
        most = self.most_steps
        too_long = steps.mask.shape[1] > most
        if too_long:
            steps = paid_in_between(steps, most)
        tokens = step_tokens(steps, self.encoders, self.following, self.role.weight[2])
        if too_long:
            tokens = packed(tokens, most).padded(most)
        return tokens.read(self.transformer)

    @property
    def most_steps(self) -> int:
        """Most steps of an episode of the record that are read."""
        return max(self.config.record_steps // max(self.config.record, 1), 1)

    def encode_contexts(self, contexts: Trajectories) -> Past:
        """Encodes trajectories (n, T, ...), each on its own."""
        visible = self.visible(contexts.step_mask.unsqueeze(1))
        return Past(self.transformer(self._context_tokens(contexts))[1], visible)

    def visible(self, step_mask: Tensor) -> Tensor:
        """Marks the tokens of steps that were played: (Q, K, T) bool -> (Q, K * tokens) bool."""
        per_step = 1 if self.config.tokens == "fused" else 4
        return repeat(step_mask, "q k t -> q (k t m)", m=per_step)

    def extend(
        self,
        steps: Trajectories,
        encoded: EncodedObservations,
        number: int,
        seen: Past | None,
        contexts: Past | None,
    ) -> tuple[Tensor, Past]:
        """Logits (Q, A) of the running step, of which only the new tokens are read.

        Each token is read once. So it knows the contexts of its own step; with the same contexts at
        every step the logits equal those of `forward`.

        Args:
            steps: (Q, 1 or 2, ...) the running step, behind the one before it if there is any.
            encoded: (Q, 1 or 2, ...) their observations.
            number: The running step's number.
            seen: The record and the running trajectory so far; None if there is neither. If it has
                room for tokens, and for contexts if there are any, it is written to, and no other
                step may use it.
            contexts: The contexts of this step.

        Returns:
            The logits, and what the next step has seen.
        """
        x = self._current_tokens(steps, encoded, first=max(number - 1, 0))
        # of four tokens: the action and outcome of the step before, return-to-go and observation
        new = slice(-1, None) if self.config.tokens == "fused" else slice(-6 if number else 0, -2)
        x = x[:, new]
        L = x.shape[1]
        with_front = None if seen is None or not seen.front else seen
        past = seen
        if contexts is not None:
            past = with_front.showing(contexts) if with_front else contexts.after(seen)
        y, read = read_on(self.transformer, x, past, slice(L - 1, L))
        logits = self.head(y, encoded.attack_targets[:, -1:])[:, 0]
        # the next step has contexts of its own
        if with_front:
            assert contexts is not None
            read = with_front._replace(room=read.room)
        elif contexts is not None:
            read = read.latest(L).after(seen)
        return logits, read

    def catch_up(
        self, steps: Trajectories, encoded: EncodedObservations, seen: Past | None
    ) -> Past:
        """Reads all steps (Q, t, ...) before the running one, as `extend` does one by one.

        Args:
            steps: (Q, t, ...).
            encoded: (Q, t, ...) their observations.
            seen: The record, if there is one.

        Returns:
            What the running step has seen.
        """
        x = self._current_tokens(steps, encoded)
        if self.config.tokens == "four":
            x = x[:, :-2]  # the last action and outcome are read with the running step
        return read_on(self.transformer, x, seen, None)[1]

    def _concatenated(
        self, current: Trajectories, encoded: EncodedObservations, contexts: Trajectories
    ) -> Tensor:
        """Outputs (Q, T, D) with attention across all contexts and the current trajectory.

        Arguments as in `forward`, for `context: concatenated`.
        """
        context_x = rearrange(self._context_tokens(contexts), "q k l d -> q (k l) d")
        current_x = self._current_tokens(current, encoded)
        L = current_x.shape[1]
        # Padding moves to the end, where plain causal attention, the fast path, never meets it:
        # where a token stands is told by its embedding alone.
        visible = self.visible(contexts.step_mask)
        token_mask = F.pad(visible, (0, L), value=True)
        order = (~token_mask).long().argsort(dim=1, stable=True)[:, : int(token_mask.sum(1).max())]
        x = take_tokens(torch.cat([context_x, current_x], 1), order)
        acting = torch.arange(L, device=x.device)[self._action_positions or slice(None)]
        positions = visible.sum(1, keepdim=True) + acting
        return self.transformer(x, positions=positions)[0]

    def _kinds(self, t: Trajectories, observations: Tensor, actions: Tensor) -> list[Tensor]:
        """Tokens g o a p (..., T, D) of slices (..., T, ...), of which two are encoded already."""
        g = self.encoders.encode_return_to_go(t.return_to_go)
        p = self.encoders.encode_outcome(t.rewards, t.done, t.completed)
        return [g, observations, actions, p]

    def _context_tokens(self, t: Trajectories) -> Tensor:
        """Tokens (..., tokens, D) of contexts (..., T, ...)."""
        step = self.encoders.step.weight[: t.actions.shape[-1]] + self.role.weight[0]
        g, o, a, p = self._kinds(t, *self.encoders.encode_taken(t.observations, t.actions))
        if self.config.tokens == "fused":
            return g + o + a + p + step
        return rearrange(torch.stack([g, o, a, p], -2) + step[:, None], "... t m d -> ... (t m) d")

    def _current_tokens(
        self, t: Trajectories, encoded: EncodedObservations, first: int = 0
    ) -> Tensor:
        """Tokens (Q, tokens, D) of current trajectories (Q, T, ...), from step `first` on.

        A fused token holds the PREVIOUS action and outcome.
        """
        steps = slice(first, first + t.actions.shape[-1])
        step = self.encoders.step.weight[steps] + self.role.weight[1]
        actions = self.encoders.encode_action(t.actions, encoded)
        g, o, a, p = self._kinds(t, encoded.embedding, actions)
        if self.config.labels == "expert" and not self.config.return_to_go:
            # what is still to come would tell a running trajectory in training how it ends
            g = torch.zeros_like(g)
        if self.config.tokens == "fused":
            return g + o + F.pad((a + p)[:, :-1], (0, 0, 1, 0)) + step
        return rearrange(torch.stack([g, o, a, p], 2) + step[:, None], "q t m d -> q (t m) d")

    @property
    def _action_positions(self) -> slice | None:
        """The current tokens at which actions are read, the observations; None if all are."""
        return None if self.config.tokens == "fused" else slice(1, None, 4)

    def loss(self, batch: DecisionBatch) -> ImitationLosses:
        """Computes the losses of a batch; queries are read with others of about their length."""
        self._check(batch.contexts, batch.record)
        remembered = None if batch.record is None else self.encode_record(batch.record)
        labels, mask = self._labels(batch)

        def supervised(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """Logits (S, A), labels (S,), and errors of the hidden part (S,)."""
            current, contexts = (trimmed(t.take(rows)) for t in (batch.current, batch.contexts))
            encoded = self.encoders.observation(current.observations)
            shown = None if batch.shown is None else batch.shown[rows]
            here = mask[rows, : current.actions.shape[1]]
            y = take_where(self._outputs(current, contexts, encoded, remembered, shown), here)
            logits = self.head(y, take_where(encoded.attack_targets, here))
            learned = labels[rows, : here.shape[1]][here]
            return logits, learned, hidden_errors(self.infer, y, batch.hidden, rows, here)

        logits, learned, errors = concat_by_length(batch.length, supervised)
        return imitation_losses(logits, learned, errors, self.config.label_smoothing)

    def _labels(self, batch: DecisionBatch) -> tuple[Tensor, Tensor]:
        """Actions (Q, T) that are learned, and the steps (Q, T) at which they are."""
        labels, mask = batch.current.actions, batch.current.step_mask
        if self.config.supervise == "last":
            mask = mask & (torch.arange(mask.shape[1], device=mask.device) == batch.step[:, None])
        if self.config.labels == "expert":
            labels = batch.expert
            mask = mask & (labels >= 0)
        return labels, mask
