"""The decision transformer: what an agent remembers and its current trajectory give an action.

It reads up to three sources, each marked by an embedding of its own: the current trajectory, k
retrieved ones, and the record, a set of the agent's own past steps. METHOD.md, sections 6 and 12:
four tokens per step and contexts concatenated, as in the paper, or one fused token per step and
each context encoded on its own.
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
from maicc.models.past import Past
from maicc.models.record import StepTokens, Transitions, step_tokens
from maicc.models.tokens import TokenEncoders, scaled_embedding
from maicc.models.transformer import KeyValues, Transformer, take_tokens
from maicc.types import Spec, Trajectories, UserError


class DecisionBatch(NamedTuple):
    """Queries and the trajectories that were retrieved for them."""

    current: Trajectories  # (Q, T, ...) tensors: whole trajectories, the prefix and what followed
    contexts: Trajectories  # (Q, K, T, ...)
    step: Tensor  # (Q,) int64, the step whose prefix was the query
    expert: Tensor  # (Q, T) int64, what the best behaviour policy would have done; -1 unknown
    record: Transitions | None = None  # (S, C, ...) sets, each for one or more of the queries
    set_of: Tensor | None = None  # (Q,) int64, which of the sets is a query's
    hidden: Tensor | None = None  # (Q, R) the hidden part of the task, where it is told in training

    @property
    def length(self) -> Tensor:
        """Size of each query (Q,): of its set, or of its trajectories where there are no sets."""
        if self.record is not None and self.set_of is not None:
            return self.record.mask.sum(1)[self.set_of]  # queries that share a set stay together
        return self.current.step_mask.sum(1) + self.contexts.step_mask.sum((1, 2))


class DecisionLosses(NamedTuple):
    """Means over the supervised steps."""

    actions: Tensor  # cross-entropy
    accuracy: Tensor  # share of the actions that are predicted right
    hidden: Tensor | None  # squared error of the hidden part; None where it is not learned


class DecisionTransformer(nn.Module):
    """Model that predicts an agent's action at each step of its current trajectory.

    With `context: independent` the keys and values of a stored trajectory depend on nothing else.
    `encode_contexts` makes them once, and `decide` uses them.
    """

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
        infers = spec.hidden > 0 and config.hidden_weight > 0
        self.infer = nn.Linear(config.width, spec.hidden) if infers else None

    def forward(
        self,
        current: Trajectories,
        contexts: Trajectories,
        encoded: EncodedObservations | None = None,
        record: Transitions | None = None,
        set_of: Tensor | None = None,
    ) -> Tensor:
        """Logits (Q, T, A) of the action at each step of the current trajectories.

        Args:
            current: (Q, T, ...).
            contexts: (Q, K, T', ...).
            encoded: (Q, T, ...) the current observations, where they have been read already.
            record: (S, C, ...) sets of the agents' past steps.
            set_of: (Q,) int64, the set of each query; None if each has its own, in order.

        Raises:
            ValueError: K is not the number of contexts the model was made for, or a record is
                missing, or is given to a model without one.
        """
        self._check(contexts, record)
        if encoded is None:
            encoded = self.encoders.observation(current.observations)
        tokens = None if record is None else self.record_tokens(record)
        y = self._outputs(current, contexts, encoded, tokens, set_of)
        return self.head(y, encoded.attack_targets)

    def _check(self, contexts: Trajectories, record: Transitions | None) -> None:
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
        record: StepTokens | None,
        set_of: Tensor | None,
    ) -> Tensor:
        """Outputs (Q, T, D), see `forward`; a record's steps are tokens already."""
        K = contexts.actions.shape[1]
        if K and self.config.context == "concatenated":
            return self._concatenated(current, encoded, contexts)
        past = None
        if record is not None:
            past = self.read_record(record)
            past = past if set_of is None else past.take(set_of)
        if K:
            flat = Trajectories(*(part.flatten(0, 1) for part in contexts))
            kv = [
                (self._side_by_side(k, K), self._side_by_side(v, K))
                for k, v in self.encode_contexts(flat)
            ]
            past = Past(kv, self.visible(contexts.step_mask)).behind(past)
        return self._decided(current, encoded, past)

    def encode_record(self, record: Transitions) -> Past:
        """Encodes sets of past steps (B, C, ...)."""
        return self.read_record(self.record_tokens(record))

    def record_tokens(self, record: Transitions) -> StepTokens:
        """Makes a token of each step of sets (B, C, ...)."""
        assert self.following is not None
        return step_tokens(record, self.encoders, self.following, self.role.weight[2])

    def read_record(self, tokens: StepTokens) -> Past:
        """Reads sets of past steps, `record_steps` of each at most."""
        if tokens.mask.shape[1] > self.config.record_steps:
            tokens = tokens.packed(self.config.record_steps)
        return Past(tokens.read(self.transformer), tokens.mask)

    def encode_contexts(self, contexts: Trajectories) -> KeyValues:
        """Encodes trajectories (B, T, ...), each on its own.

        Returns:
            Keys and values per layer, each (B, heads, tokens, width / heads).
        """
        return self.transformer(self._context_tokens(contexts))[1]

    def visible(self, step_mask: Tensor) -> Tensor:
        """Marks the tokens of steps that were played: (Q, K, T) bool -> (Q, K * tokens) bool."""
        per_step = 1 if self.config.tokens == "fused" else 4
        return repeat(step_mask, "q k t -> q (k t m)", m=per_step)

    def decide(
        self, current: Trajectories, encoded: EncodedObservations, past: Past | None
    ) -> Tensor:
        """Logits (Q, T, A) of the current trajectories, given what is encoded already.

        Args:
            current: (Q, T, ...).
            encoded: (Q, T, ...) the current observations.
            past: Record and contexts; None without either.
        """
        return self.head(self._decided(current, encoded, past), encoded.attack_targets)

    def _decided(
        self, current: Trajectories, encoded: EncodedObservations, past: Past | None
    ) -> Tensor:
        """Outputs (Q, T, D) of the current trajectories, see `decide`."""
        x = self._current_tokens(current, encoded)
        Q, L = x.shape[:2]
        positions = self._action_positions(Q, L, x.device)
        every_token = positions.shape[1] == L
        return self._read(x, past, None if every_token else positions)[0]

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
        every step the logits equal those of `decide`.

        Args:
            steps: (Q, 1 or 2, ...) the running step, behind the one before it if there is any.
            encoded: (Q, 1 or 2, ...) their observations.
            number: The running step's number.
            seen: The record and the running trajectory so far; None if there is neither.
            contexts: The contexts of this step.

        Returns:
            The logits, and what the next step has seen.
        """
        x = self._current_tokens(steps, encoded, first=max(number - 1, 0))
        # of four tokens: the action and outcome of the step before, return-to-go and observation
        new = slice(-1, None) if self.config.tokens == "fused" else slice(-6 if number else 0, -2)
        x = x[:, new]
        Q, L = x.shape[:2]
        last = torch.full((Q, 1), L - 1, device=x.device)
        past = seen if contexts is None else contexts.behind(seen)
        y, after = self._read(x, past, None if L == 1 else last)
        logits = self.head(y, encoded.attack_targets[:, -1:])[:, 0]
        # the next step has contexts of its own
        return logits, after if contexts is None else after.latest(L).behind(seen)

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
        return self._read(x, seen, None)[1]

    def _read(self, x: Tensor, past: Past | None, positions: Tensor | None) -> tuple[Tensor, Past]:
        """Reads tokens (Q, L, D) that see the past, if there is any, and causally each other.

        Returns:
            Outputs at `positions`, and the past with these tokens behind it.
        """
        visible = torch.ones(*x.shape[:2], dtype=torch.bool, device=x.device)
        if past is None:
            y, kv = self.transformer(x, positions=positions)
            return y, Past(kv, visible)
        y, kv = self.transformer.extend(x, past.kv, past.visible, positions)
        return y, Past(kv, torch.cat([past.visible, visible], 1))

    def _concatenated(
        self, current: Trajectories, encoded: EncodedObservations, contexts: Trajectories
    ) -> Tensor:
        """Outputs (Q, T, D) with attention across all contexts and the current trajectory.

        Arguments as in `forward`, for `context: concatenated`.
        """
        context_x = rearrange(self._context_tokens(contexts), "q k l d -> q (k l) d")
        current_x = self._current_tokens(current, encoded)
        Q, L = current_x.shape[:2]
        # Padding moves to the end, where plain causal attention, the fast path, never meets it:
        # where a token stands is told by its embedding alone.
        visible = self.visible(contexts.step_mask)
        token_mask = F.pad(visible, (0, L), value=True)
        order = (~token_mask).long().argsort(dim=1, stable=True)[:, : int(token_mask.sum(1).max())]
        x = take_tokens(torch.cat([context_x, current_x], 1), order)
        positions = visible.sum(1, keepdim=True) + self._action_positions(Q, L, x.device)
        return self.transformer(x, positions=positions)[0]

    @staticmethod
    def _side_by_side(kv: Tensor, K: int) -> Tensor:
        """Joins the keys or values of a query's K contexts."""
        return rearrange(kv, "(q k) h l d -> q h (k l) d", k=K)

    def _kinds(self, t: Trajectories, encoded: EncodedObservations) -> list[Tensor]:
        """Tokens g o a p of slices (..., T, ...), (..., T, D) each."""
        e = self.encoders
        return [
            e.encode_return_to_go(t.return_to_go),
            encoded.embedding,
            e.encode_action(t.actions, encoded),
            e.encode_outcome(t.rewards, t.done, t.completed),
        ]

    def _context_tokens(self, t: Trajectories) -> Tensor:
        """Tokens (..., tokens, D) of contexts (..., T, ...)."""
        step = self.encoders.step.weight[: t.actions.shape[-1]] + self.role.weight[0]
        g, o, a, p = self._kinds(t, self.encoders.observation(t.observations))
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
        g, o, a, p = self._kinds(t, encoded)
        if self.config.labels == "expert" and not self.config.return_to_go:
            # what is still to come would tell a running trajectory in training how it ends
            g = torch.zeros_like(g)
        if self.config.tokens == "fused":
            return g + o + F.pad((a + p)[:, :-1], (0, 0, 1, 0)) + step
        return rearrange(torch.stack([g, o, a, p], 2) + step[:, None], "q t m d -> q (t m) d")

    def _action_positions(self, Q: int, L: int, device: torch.device) -> Tensor:
        """Positions (Q, T) among L current tokens at which actions are read: the observations."""
        positions = torch.arange(L, device=device).expand(Q, L)
        return positions if self.config.tokens == "fused" else positions[:, 1::4]

    def loss(self, batch: DecisionBatch) -> DecisionLosses:
        """Computes the losses of a batch.

        Observations are encoded all together, and then read with others of about their length.
        """
        self._check(batch.contexts, batch.record)
        encoded = self.encoders.observation(batch.current.observations)
        tokens = None if batch.record is None else self.record_tokens(batch.record)
        labels, mask = self._labels(batch)

        def supervised(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """Logits (S, A), labels (S,), and errors of the hidden part (S,)."""
            current, contexts = (trimmed(t.take(rows)) for t in (batch.current, batch.contexts))
            T = current.actions.shape[1]
            seen = EncodedObservations(*(part[rows, :T] for part in encoded))
            sets = set_of = None
            if tokens is not None:
                numbers = rows if batch.set_of is None else batch.set_of[rows]
                numbers, set_of = numbers.unique(return_inverse=True)
                sets = StepTokens(*(part[numbers] for part in tokens)).packed()
            here = mask[rows, :T]
            y = self._outputs(current, contexts, seen, sets, set_of)[here]
            logits = self.head(y, seen.attack_targets[here])
            return logits, labels[rows, :T][here], self._hidden_error(y, batch.hidden, rows, here)

        logits, learned, error = concat_by_length(batch.length, supervised)
        return DecisionLosses(
            F.cross_entropy(logits, learned, label_smoothing=self.config.label_smoothing),
            (logits.argmax(-1) == learned).float().mean(),
            error.mean() if len(error) else None,
        )

    def _hidden_error(self, y: Tensor, hidden: Tensor | None, rows: Tensor, here: Tensor) -> Tensor:
        """Squared errors (S,) of the hidden part at the supervised steps; none without it."""
        if self.infer is None or hidden is None:
            return y.new_empty(0)
        row = rows.repeat_interleave(here.sum(1))
        return (self.infer(y) - hidden[row]).square().mean(-1)

    def _labels(self, batch: DecisionBatch) -> tuple[Tensor, Tensor]:
        """Actions (Q, T) that are learned, and the steps (Q, T) at which they are."""
        labels, mask = batch.current.actions, batch.current.step_mask
        if self.config.supervise == "last":
            mask = mask & (torch.arange(mask.shape[1], device=mask.device) == batch.step[:, None])
        if self.config.labels == "expert":
            labels = batch.expert
            mask = mask & (labels >= 0)
        return labels, mask
