"""DPT, the decision-pretrained transformer (Lee et al. 2023): the expert's action, given a dataset.

A query observation and a set of transitions of the same task, in no order, one token each, give
the action of the best behaviour policy. At test time the set has the steps of the agent's own
episodes and grows with them, up to as many of the latest as were trained; actions are sampled, and
greedy in the last tenth of the episodes.
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
    """Steps with what followed, in any order."""

    step: Tensor  # (B, C) int64, the number of the step in its episode
    observations: Tensor  # (B, C, O)
    actions: Tensor  # (B, C)
    following: Tensor  # (B, C, O), zero after the last step
    rewards: Tensor  # (B, C) of the team
    done: Tensor  # (B, C)
    completed: Tensor  # (B, C)
    there: Tensor  # (B, C) bool

    def take(self, rows: Tensor) -> Transitions:
        """The sets of these rows."""
        return Transitions(*(part[rows] for part in self))


def transitions(episodes: Trajectories) -> Transitions:
    """Every step of episodes (B, E, T, ...); C = E * T."""
    B, E, T = episodes.actions.shape
    step = torch.arange(T, device=episodes.actions.device).expand(B, E, T)
    real = episodes.step_mask.unsqueeze(-1)
    following = F.pad((episodes.observations * real)[:, :, 1:], (0, 0, 0, 1))
    parts = (
        step, episodes.observations, episodes.actions, following, episodes.rewards, episodes.done,
        episodes.completed, episodes.step_mask,
    )  # fmt: skip
    return Transitions(*(part.flatten(1, 2) for part in parts))


def packed(context: Transitions) -> Transitions:
    """The sets without places that are empty in all of them."""
    there = context.there
    at = (~there).long().argsort(dim=1, stable=True)[:, : max(int(there.sum(1).max()), 1)]
    row = torch.arange(len(there), device=there.device)[:, None]
    return Transitions(*(part[row, at] for part in context))


class DPTransformer(nn.Module):
    """Attention among the transitions is not masked and knows no order; a query sees them all."""

    def __init__(self, spec: Spec, config: PolicyConfig) -> None:
        super().__init__()
        self.encoders = TokenEncoders(spec, config.width, config.encoder, return_to_go=False)
        self.following = nn.Linear(config.width, config.width)
        self.role = scaled_embedding(2, config.width)  # 0 transition, 1 query
        self.transformer = Transformer(config.width, config.layers, config.heads, config.dropout)
        self.head = ActionHead(spec, config.width, config.encoder)

    def encode(self, context: Transitions) -> KeyValues:
        """Keys and values of the transitions, per layer."""
        e, c = self.encoders, context
        seen, following = e.observation(c.observations), e.observation(c.following)
        x = seen.embedding + e.encode_action(c.actions, seen) + self.following(following.embedding)
        x = x + e.step(c.step) + self.role.weight[0]
        x = x + e.encode_outcome(c.rewards, c.done, c.completed)
        own = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        # one that is not there sees itself, so that its softmax is defined
        return self.transformer(x, (c.there.unsqueeze(1) | own).unsqueeze(1))[1]

    def decide(self, observations: Tensor, step: Tensor, past: KeyValues, there: Tensor) -> Tensor:
        """Logits (B, Q, A) of queries (B, Q, O) at steps (B, Q), each on its own.

        Args:
            past: What `encode` gave, of transitions of which `there` (B, C) exist.
        """
        e = self.encoders
        seen = e.observation(observations)
        x = seen.embedding + e.step(step) + self.role.weight[1]
        B, Q = step.shape
        own = torch.eye(Q, dtype=torch.bool, device=x.device).expand(B, Q, Q)
        mask = torch.cat([there.unsqueeze(1).expand(B, Q, -1), own], 2).unsqueeze(1)
        z, _ = self.transformer(x, mask, past)
        return self.head(z, seen.attack_targets)


class DPTTeam(BaselineTeam):
    """Agents that hold a set of their own transitions against what they observe."""

    def on_episode_start(self) -> None:
        count, most = int(self.online.count[0]), self.module.config.set_episodes
        latest = slice(max(count - most, 0), count)
        lived = Trajectories(*(part[:, latest] for part in self.online.trajectories))
        context = packed(transitions(self._tensors(lived)))
        with torch.no_grad():
            self._past, self._there = self.net.encode(context), context.there

    def logits(self, active: np.ndarray) -> np.ndarray:
        at = torch.from_numpy(active).to(self.device)
        past = [(keys[at], values[at]) for keys, values in self._past]
        seen = self._tensor(self._now.observations[active, self._step])[:, None]
        step = torch.full((len(active), 1), self._step, device=self.device)
        logits = self.net.decide(seen, step, past, self._there[at])[:, 0]
        return logits.double().cpu().numpy()


class DPTModule(BaselineModule):
    """DPT; arguments of `BaselineModule`. A chain's episodes but the last make up a set."""

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
        return model.set_episodes + 1

    @classmethod
    def supervised(cls, model: Any) -> int:
        return 1

    def setup(self, stage: str) -> None:
        super().setup(stage)
        require_expert(self.trainer.datamodule.expert.numpy())

    def training_step(self, batch: ChainBatch, batch_index: int) -> Tensor:
        context = transitions(Trajectories(*(part[:, :-1] for part in batch.chain)))
        query = Trajectories(*(part[:, -1] for part in batch.chain))
        # sets of every size
        chance = torch.Generator().manual_seed(self.step_seed())
        B, C = context.there.shape
        share = torch.rand(B, 1, generator=chance)
        kept = torch.rand(B, C, generator=chance) < share
        context = context._replace(there=context.there & kept.to(context.there.device))

        def supervised(rows: Tensor) -> tuple[Tensor, Tensor]:
            some, asked = packed(context.take(rows)), trimmed(query.take(rows))
            step = torch.arange(asked.actions.shape[1], device=rows.device)
            step = step.expand_as(asked.actions)
            logits = self.net.decide(asked.observations, step, self.net.encode(some), some.there)
            expert = batch.expert[rows, -1, : step.shape[1]]
            learned = asked.step_mask & (expert >= 0)
            return logits[learned], expert[learned]

        return self.learn(*concat_by_length(context.there.sum(1), supervised))
