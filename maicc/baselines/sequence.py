"""A causal transformer over the tokens of several episodes in a row: MADT, AT and AD.

Each of these methods has a file of its own, which says which tokens it reads, and how its episodes
are ordered and relabelled. A step has a token of each kind, or a single fused one. The fused token
is the sum of the observation and of the action and outcome of the step before it, which for the
first step of an episode is the last step of the episode before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from maicc.baselines.base import BaselineModule, BaselineTeam
from maicc.config import PolicyConfig
from maicc.memory import OnlineMemory
from maicc.models.batching import concat_by_length, take_where, trimmed
from maicc.models.heads import ActionHead, hidden_errors, hidden_head
from maicc.models.observations import EncodedObservations
from maicc.models.past import Past, read_on
from maicc.models.tokens import (
    ACTION,
    OBSERVATION,
    OUTCOME,
    RETURN_TO_GO,
    TokenEncoders,
    scaled_embedding,
)
from maicc.models.transformer import Transformer, take_tokens
from maicc.training.chain_data import ChainBatch
from maicc.types import Spec, Trajectories


class SequenceTransformer(nn.Module):
    """Transformer that predicts the action at each observation from the tokens up to it.

    Args:
        kinds: Kinds of token that make up a step, in their order.
        episodes: Largest number of episodes in a row.
        fused: Whether a step is one token: of its observation, and of the action and outcome before
            it.
        hidden_weight: Weight of the second loss in training, of the hidden part of the task.
    """

    training_only = ("infer",)

    def __init__(
        self,
        spec: Spec,
        config: PolicyConfig,
        kinds: Sequence[int],
        episodes: int,
        *,
        fused: bool = False,
        hidden_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.config, self.kinds, self.episodes = config, tuple(kinds), episodes
        self.fused = fused
        self.per_step = 1 if fused else len(kinds)  # tokens
        self.acting = 0 if fused else kinds.index(OBSERVATION)  # the one that gives the action
        self.encoders = TokenEncoders(
            spec, config.width, config.encoder, return_to_go=RETURN_TO_GO in kinds
        )
        self.place = scaled_embedding(episodes, config.width)  # of an episode in its chain
        self.transformer = Transformer(config.width, config.layers, config.heads, config.dropout)
        self.head = ActionHead(spec, config.width, config.encoder)
        self.infer = hidden_head(spec, config.width, hidden_weight)

    def tokens(
        self,
        chain: Trajectories,
        first: int = 0,
        step: int = 0,
        encoded: EncodedObservations | None = None,
        before: Tensor | None = None,
    ) -> tuple[Tensor, EncodedObservations, Tensor | None]:
        """Makes the tokens of chains of episodes.

        Args:
            chain: (B, E, T, ...).
            first: Place of the first of these episodes in the whole chain.
            step: Number of the first of these steps in its episode.
            encoded: The observations (B, E, T, ...), if they are encoded already.
            before: (B, D) the action and outcome before the first of these steps, for fused tokens;
                None if there are none.

        Returns:
            (B, E, T, m, D) tokens, the encoded observations (B, E, T, ...), and the `before` of the
            steps that follow.
        """
        e = self.encoders
        observed = e.observation(chain.observations) if encoded is None else encoded
        encode = {
            RETURN_TO_GO: lambda: e.encode_return_to_go(chain.return_to_go),
            OBSERVATION: lambda: observed.embedding,
            ACTION: lambda: e.encode_action(chain.actions, observed),
            OUTCOME: lambda: e.encode_outcome(chain.rewards, chain.done, chain.completed),
        }
        _, E, T = chain.actions.shape
        position = e.step.weight[step : step + T] + self.place.weight[first : first + E, None]
        if self.fused:
            did = encode[ACTION]() + encode[OUTCOME]()
            previous = of_the_step_before(did.flatten(1, 2), chain.step_mask.flatten(1), before)
            before = previous[:, -1]
            x = (observed.embedding + previous[:, :-1].unflatten(1, (E, T))).unsqueeze(3)
        else:
            x = torch.stack([encode[kind]() for kind in self.kinds], 3)
        return x + position.unsqueeze(2), observed, before

    def row(self, chain: Trajectories) -> tuple[Tensor, Tensor, EncodedObservations, Tensor | None]:
        """Makes the tokens (B, L, D) of chains, those of steps that were played first.

        Causal attention then never looks at the others, which stand at the end.

        Returns:
            The tokens, whether (B, E * T * m) each of them, in the order of the steps, was played,
            the encoded observations, and the `before` of the steps that follow.
        """
        x, encoded, before = self.tokens(chain)
        x = rearrange(x, "b e t m d -> b (e t m) d")
        played = chain.step_mask.flatten(1).repeat_interleave(self.per_step, 1)
        order = (~played).long().argsort(dim=1, stable=True)[:, : int(played.sum(1).max())]
        return take_tokens(x, order), played, encoded, before

    def forward(self, chain: Trajectories) -> Tensor:
        """Computes logits (B, E, T, A) of chains (B, E, T, ...).

        Logits of steps that were not played mean nothing.
        """
        z, encoded = self.read(chain)
        return self.head(z, encoded.attack_targets)

    def read(self, chain: Trajectories) -> tuple[Tensor, EncodedObservations]:
        """Computes the outputs (B, E, T, D) at the observations of chains, and encodes these."""
        x, played, encoded, _ = self.row(chain)
        y, _ = self.transformer(x)
        position = (played.cumsum(1) - 1).clamp(min=0)[:, self.acting :: self.per_step]
        return take_tokens(y, position).unflatten(1, chain.actions.shape[1:]), encoded

    def encode(self, contexts: Trajectories) -> Read:
        """Encodes past episodes (B, C, T, ...), for the running one to look back at."""
        x, played, _, before = self.row(contexts)
        played = torch.arange(x.shape[1], device=x.device) < played.sum(1, keepdim=True)
        return Read(Past(self.transformer(x)[1], played), before)

    def decide(
        self, current: Trajectories, read: Read | None, place: int, steps_read: int = 0
    ) -> tuple[Tensor, Read]:
        """Computes logits (B, A) of the last step of running episodes.

        Args:
            current: (B, T, ...) the running episodes, whole.
            read: What was read before: `place` past episodes and `steps_read` steps of the running
                one. None if there are none.
            place: Number of past episodes that were read.
            steps_read: Number of steps of the running episode that were read. Of the last of them
                only the tokens up to its observation were.

        Returns:
            The logits, and what has been read at the next step.
        """
        step = max(steps_read - 1, 0)
        chain = one_episode(current.take(np.s_[:, step:]))
        x, encoded, before = self.tokens(chain, place, step, before=read.before if read else None)
        x = rearrange(x, "b 1 t m d -> b (t m) d")
        to_acting = self.acting + 1  # tokens of a step up to the one that gives the action
        x = x[:, to_acting if steps_read else 0 : x.shape[1] - self.per_step + to_acting]
        last = slice(x.shape[1] - 1, x.shape[1])
        z, past = read_on(self.transformer, x, read.past if read else None, last)
        logits = self.head(z[:, 0], encoded.attack_targets[:, 0, -1])
        return logits, Read(past, before)


class Read(NamedTuple):
    """What was read of a chain, for later tokens to look back at."""

    past: Past
    before: Tensor | None = None  # (B, D) the last action and outcome, where tokens are fused

    def take(self, rows: Tensor) -> Read:
        """Picks these rows."""
        return Read(self.past.take(rows), None if self.before is None else self.before[rows])


def of_the_step_before(x: Tensor, played: Tensor, before: Tensor | None) -> Tensor:
    """Finds what the last step that was played before each step has.

    Args:
        x: (B, L, D) of each step.
        played: (B, L) bool.
        before: (B, D) of the step before all of these; zeros if None.

    Returns:
        (B, L + 1, D); the last is for the step that follows these.
    """
    B, L, D = x.shape
    before = x.new_zeros(B, D) if before is None else before
    number = torch.arange(1, L + 1, device=x.device) * played  # 0 stands for `before`
    latest_number = F.pad(number, (1, 0)).cummax(1).values
    return take_tokens(torch.cat([before.unsqueeze(1), x], 1), latest_number)


def one_episode(slices: Trajectories) -> Trajectories:
    """Makes chains of one episode each of trajectories: (B, T, ...) -> (B, 1, T, ...)."""
    return slices.each(lambda part: part.unsqueeze(1))


class SequenceTeam(BaselineTeam):
    """Agents that read the running episode after the past ones that the method shows them."""

    module: SequenceModule
    net: SequenceTransformer

    def on_episode_start(self) -> None:
        """Encodes the past episodes that the method shows."""
        contexts = self.module.contexts(self.online) if self.episode else None
        self._place = 0
        self._contexts: Read | None = None  # the past episodes of all rows
        if contexts is not None:
            self._place = contexts.actions.shape[1]
            with torch.no_grad():
                self._contexts = self.net.encode(trimmed(self._tensors(contexts)))
        self._read: Read | None = None  # of the rows `_asked`, with all steps before this one
        self._asked = np.zeros(0, np.int64)

    def logits(self, active: np.ndarray) -> np.ndarray:
        """Computes the logits (Q, A) of the `active` rows at the running step."""
        if self._step and np.isin(active, self._asked).all():
            # the other rows are dead or done; what was read is dropped of many of them at a time
            if len(active) < 0.8 * len(self._asked):
                assert self._read is not None
                rows = torch.from_numpy(np.flatnonzero(np.isin(self._asked, active)))
                self._read, self._asked = self._read.take(rows.to(self.device)), active
            steps_read, read = self._step, self._read
        else:
            steps_read, read, self._asked = 0, self._contexts, active
            if read is not None and len(active) < len(self._run):
                read = read.take(torch.from_numpy(active).to(self.device))
        current = self.module.running(self._current(self._asked))
        logits, self._read = self.net.decide(current, read, self._place, steps_read)
        is_active = np.isin(self._asked, active)
        return logits.double().cpu().numpy()[is_active]


class SequenceModule(BaselineModule):
    """Trains a `SequenceTransformer` on the steps of its chains; arguments of `BaselineModule`."""

    net: SequenceTransformer
    team_type = SequenceTeam
    kinds: ClassVar[tuple[int, ...]]  # of the tokens of a step
    fused: ClassVar[bool] = False  # whether a step is one token

    def make_net(self) -> nn.Module:
        episodes = self.drawn(self.config, self.spec)
        return SequenceTransformer(
            self.spec,
            self.config,
            self.kinds,
            episodes,
            fused=self.fused,
            hidden_weight=getattr(self.config, "hidden_weight", 0.0),
        )

    def prepare(self, batch: ChainBatch) -> tuple[Trajectories, Tensor]:
        """Gives the chains as the model reads them, and (B, E, T) the steps that it learns from."""
        return batch.chain, batch.chain.step_mask

    def losses(self, batch: ChainBatch) -> dict[str, Tensor]:
        """Computes the loss of the actions in the steps that `prepare` gives."""
        chain, learned_steps = self.prepare(batch)

        def supervised(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """Logits (S, A), labels (S,), and errors of the hidden part (S,)."""
            part = trimmed(chain.take(rows))
            mask = learned_steps[rows, :, : part.actions.shape[2]]
            z, encoded = self.net.read(part)
            y = take_where(z, mask)
            logits = self.net.head(y, take_where(encoded.attack_targets, mask))
            errors = hidden_errors(self.net.infer, y, batch.hidden, rows, mask.flatten(1))
            return logits, part.actions[mask], errors

        return self.imitation(*concat_by_length(chain.step_mask.sum((1, 2)), supervised))

    def running(self, current: Trajectories) -> Trajectories:
        """Gives the running episodes as the model reads them, as in training."""
        return current

    def contexts(self, online: OnlineMemory) -> Trajectories | None:
        """Gives the past episodes as the model reads them: (rows, C, T, ...) arrays, or None."""
        return None


def latest(online: OnlineMemory, episodes: int) -> Trajectories | None:
    """Picks up to that many latest episodes of each row, the oldest first: (rows, C, T, ...)."""
    count = online.count
    first = max(count - episodes, 0)
    if first == count:
        return None
    return online.trajectories.take(np.s_[:, first:count])
