"""DPT, the decision-pretrained transformer (Lee et al. 2023): the expert's action, given a set.

The model reads a query observation and a set of transitions of the same task, one token each, in no
order. It predicts the action of the best behaviour policy. At test time the set holds the steps of
the agent's own latest episodes, of as many as in training. Actions are sampled, but greedy in the
last tenth of the episodes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maicc.baselines.base import BaselineModule, BaselineTeam
from maicc.baselines.options import DPTConfig
from maicc.config import OptimiserConfig, PolicyConfig
from maicc.data.dataset import require_expert
from maicc.models.batching import concat_by_length, trimmed
from maicc.models.heads import ActionHead
from maicc.models.tokens import TokenEncoders, scaled_embedding
from maicc.models.transformer import KeyValues, Transformer
from maicc.training.chain_data import ChainBatch
from maicc.types import Spec, Trajectories


class Transitions(NamedTuple):
    """Steps and the observations that followed them, in any order."""

    step: Tensor  # (B, C) int64, the number of the step in its episode
    observations: Tensor  # (B, C, O)
    actions: Tensor  # (B, C)
    following: Tensor  # (B, C, O), zero after the last step
    rewards: Tensor  # (B, C) of the team
    done: Tensor  # (B, C)
    completed: Tensor  # (B, C)
    there: Tensor  # (B, C) bool, False where a place of the set is empty

    def take(self, rows: Tensor) -> Transitions:
        """Picks the sets of these rows."""
        return Transitions(*(part[rows] for part in self))


def transitions(episodes: Trajectories) -> Transitions:
    """Makes a set of every step of episodes (B, E, T, ...); C = E * T."""
    B, E, T = episodes.actions.shape
    step = torch.arange(T, device=episodes.actions.device).expand(B, E, T)
    played = episodes.step_mask.unsqueeze(-1)
    following = F.pad((episodes.observations * played)[:, :, 1:], (0, 0, 0, 1))
    parts = (
        step, episodes.observations, episodes.actions, following, episodes.rewards, episodes.done,
        episodes.completed, episodes.step_mask,
    )  # fmt: skip
    return Transitions(*(part.flatten(1, 2) for part in parts))


def packed(context: Transitions) -> Transitions:
    """Drops the places that are empty in all sets."""
    exists = context.there
    places = (~exists).long().argsort(dim=1, stable=True)[:, : max(int(exists.sum(1).max()), 1)]
    row = torch.arange(len(exists), device=exists.device)[:, None]
    return Transitions(*(part[row, places] for part in context))


class DPTransformer(nn.Module):
    """Transformer over a set of transitions and queries.

    Attention among the transitions is not masked and knows no order. A query looks at all
    transitions, and at no other query.
    """

    def __init__(self, spec: Spec, config: PolicyConfig) -> None:
        super().__init__()
        self.encoders = TokenEncoders(spec, config.width, config.encoder, return_to_go=False)
        self.following = nn.Linear(config.width, config.width)
        self.role = scaled_embedding(2, config.width)  # 0 transition, 1 query
        self.transformer = Transformer(config.width, config.layers, config.heads, config.dropout)
        self.head = ActionHead(spec, config.width, config.encoder)

    def encode(self, context: Transitions) -> KeyValues:
        """Computes the keys and values of the transitions, per layer."""
        e, c = self.encoders, context
        encoded, following = e.observation(c.observations), e.observation(c.following)
        x = encoded.embedding + e.encode_action(c.actions, encoded)
        x = x + self.following(following.embedding)
        x = x + e.step(c.step) + self.role.weight[0]
        x = x + e.encode_outcome(c.rewards, c.done, c.completed)
        itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        # an empty place looks at itself, so that its softmax is defined
        return self.transformer(x, (c.there.unsqueeze(1) | itself).unsqueeze(1))[1]

    def decide(self, observations: Tensor, step: Tensor, past: KeyValues, exists: Tensor) -> Tensor:
        """Computes the logits (B, Q, A) of queries, each on its own.

        Args:
            observations: (B, Q, O).
            step: (B, Q) number of each query's step in its episode.
            past: Keys and values of C transitions, from `encode`.
            exists: (B, C) bool, False where a place of the set is empty.
        """
        e = self.encoders
        encoded = e.observation(observations)
        x = encoded.embedding + e.step(step) + self.role.weight[1]
        B, Q = step.shape
        itself = torch.eye(Q, dtype=torch.bool, device=x.device).expand(B, Q, Q)
        mask = torch.cat([exists.unsqueeze(1).expand(B, Q, -1), itself], 2).unsqueeze(1)
        z, _ = self.transformer(x, mask, past)
        return self.head(z, encoded.attack_targets)


class DPTTeam(BaselineTeam):
    """Agents that choose actions by the set of their own transitions."""

    net: DPTransformer

    def on_episode_start(self) -> None:
        """Encodes the set: the steps of the latest episodes."""
        count, set_episodes = int(self.online.count[0]), self.module.config.set_episodes
        latest = slice(max(count - set_episodes, 0), count)
        episodes = Trajectories(*(part[:, latest] for part in self.online.trajectories))
        context = packed(transitions(self._tensors(episodes)))
        with torch.no_grad():
            self._past, self._exists = self.net.encode(context), context.there

    def logits(self, active: np.ndarray) -> np.ndarray:
        """Computes the logits (Q, A) of the `active` rows at the running step."""
        rows = torch.from_numpy(active).to(self.device)
        past = [(keys[rows], values[rows]) for keys, values in self._past]
        observations = self._tensor(self._now.observations[active, self._step])[:, None]
        step = torch.full((len(active), 1), self._step, device=self.device)
        logits = self.net.decide(observations, step, past, self._exists[rows])[:, 0]
        return logits.double().cpu().numpy()


class DPTModule(BaselineModule):
    """Trains DPT; arguments of `BaselineModule`.

    The last episode of a chain gives the queries, the episodes before it make up the set.
    """

    net: DPTransformer

    kind = "dpt"
    config_type = DPTConfig
    team_type = DPTTeam

    def __init__(
        self,
        spec: Spec | None = None,
        model: DPTConfig = DPTConfig(),  # noqa: B008 - never changed
        optimiser: OptimiserConfig = OptimiserConfig(),  # noqa: B008
    ) -> None:
        super().__init__(spec, model, optimiser)

    def make_net(self) -> nn.Module:
        return DPTransformer(self.spec, self.config)

    @classmethod
    def drawn(cls, model: Any) -> int:
        """Counts the episodes of a chain: those of a set, and that of the queries."""
        return model.set_episodes + 1

    @classmethod
    def supervised(cls, model: Any) -> int:
        """Counts the episodes of a chain whose actions are learned: that of the queries."""
        return 1

    def setup(self, stage: str) -> None:
        """Refuses batches of another kind, and datasets without the expert's actions."""
        super().setup(stage)
        require_expert(self.data_module().expert.numpy())

    def training_step(self, batch: ChainBatch, batch_index: int) -> Tensor:
        """Computes the loss of the expert's actions, given sets of random sizes."""
        context = transitions(Trajectories(*(part[:, :-1] for part in batch.chain)))
        query = Trajectories(*(part[:, -1] for part in batch.chain))
        chance = torch.Generator().manual_seed(self.step_seed())
        B, C = context.there.shape
        share = torch.rand(B, 1, generator=chance)
        in_set = torch.rand(B, C, generator=chance) < share
        context = context._replace(there=context.there & in_set.to(context.there.device))

        def supervised(rows: Tensor) -> tuple[Tensor, Tensor]:
            sets, queries = packed(context.take(rows)), trimmed(query.take(rows))
            step = torch.arange(queries.actions.shape[1], device=rows.device)
            step = step.expand_as(queries.actions)
            past = self.net.encode(sets)
            logits = self.net.decide(queries.observations, step, past, sets.there)
            expert = batch.expert[rows, -1, : step.shape[1]]
            mask = queries.step_mask & (expert >= 0)
            return logits[mask], expert[mask]

        return self.learn(*concat_by_length(context.there.sum(1), supervised))
