"""DPT, the decision-pretrained transformer (Lee et al. 2023): the expert's action, given a set.

The model reads a query observation and a set of transitions of the same task, one token each, in no
order. It predicts the action of the best behaviour policy. At test time the set holds the steps of
the agent's own latest episodes, of as many as in training. Actions are sampled, but greedy in the
last ten episodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from maicc.baselines.base import BaselineModule, BaselineTeam
from maicc.baselines.options import DPTConfig
from maicc.config import OptimiserConfig
from maicc.data.dataset import require_expert
from maicc.models.batching import concat_by_length, take_rows, take_where, trimmed
from maicc.models.heads import ActionHead, hidden_errors, hidden_head
from maicc.models.observations import EncodedObservations
from maicc.models.past import Past
from maicc.models.record import StepTokens, Transitions, packed, step_tokens, transitions
from maicc.models.tokens import TokenEncoders, scaled_embedding
from maicc.models.transformer import Transformer
from maicc.training.chain_data import ChainBatch, ChainData
from maicc.training.memories import Memories
from maicc.types import Spec


class DPTransformer(nn.Module):
    """Transformer over a set of transitions and queries.

    Attention among the transitions is not masked and knows no order. A query looks at all
    transitions, and at no other query.
    """

    training_only = ("infer",)

    def __init__(self, spec: Spec, config: DPTConfig) -> None:
        super().__init__()
        self.encoders = TokenEncoders(spec, config.width, config.encoder, return_to_go=False)
        self.following = nn.Linear(config.width, config.width)
        self.role = scaled_embedding(2, config.width)  # 0 transition, 1 query
        self.transformer = Transformer(config.width, config.layers, config.heads, config.dropout)
        self.head = ActionHead(spec, config.width, config.encoder)
        self.infer = hidden_head(spec, config.width, config.hidden_weight)

    def tokens(self, context: Transitions) -> StepTokens:
        """Makes a token of each transition."""
        return step_tokens(context, self.encoders, self.following, self.role.weight[0])

    def decide(self, observations: Tensor, step: Tensor, past: Past) -> Tensor:
        """Computes the logits (B, Q, A) of queries; arguments of `read`."""
        encoded = self.encoders.observation(observations)
        return self.head(self.read(encoded, step, past), encoded.attack_targets)

    def read(self, encoded: EncodedObservations, step: Tensor, past: Past) -> Tensor:
        """Computes the outputs (B, Q, D) of queries, each on its own.

        Args:
            encoded: (B, Q, ...) their observations.
            step: (B, Q) number of each query's step in its episode.
            past: Sets of transitions.
        """
        e = self.encoders
        x = encoded.embedding + e.step(step) + self.role.weight[1]
        B, Q = step.shape
        itself = torch.eye(Q, dtype=torch.bool, device=x.device).expand(B, Q, Q)
        mask = torch.cat([past.visible.unsqueeze(1).expand(B, Q, -1), itself], 2).unsqueeze(1)
        return self.transformer(x, mask, past.kv)[0]


class DPTTeam(BaselineTeam):
    """Agents that choose actions by the set of their own transitions."""

    net: DPTransformer

    def on_episode_start(self) -> None:
        """Encodes the set: the steps of the latest episodes."""
        count, set_episodes = self.online.count, self.module.config.set_episodes
        latest = slice(max(count - set_episodes, 0), count)
        episodes = self.online.trajectories.take(np.s_[:, latest])
        context = packed(transitions(self._tensors(episodes)))
        with torch.no_grad():
            self._past = self.net.tokens(context).read(self.net.transformer)

    def logits(self, active: np.ndarray) -> np.ndarray:
        """Computes the logits (Q, A) of the `active` rows at the running step."""
        past = self._past.take(torch.from_numpy(active).to(self.device))
        observations = self._tensor(self._now.observations[active, self._step])[:, None]
        step = torch.full((len(active), 1), self._step, device=self.device)
        logits = self.net.decide(observations, step, past)[:, 0]
        return logits.double().cpu().numpy()


class SetData(ChainData):
    """Chains whose last episode gives the queries, and the others a set.

    Args:
        lived: Whether sets are drawn as MAICC's memories in training are, see `DPTFit`.
        options: Arguments of `ChainData`.
    """

    def __init__(self, lived: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.lived = lived

    def setup(self, stage: str) -> None:
        """Reads the dataset, and which episodes a team could have lived through."""
        super().setup(stage)
        self.memories = Memories(self, self.stored) if self.lived else None

    def draw(self, items: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draws the chain (E,) of an agent in a task, whose slices are `items`."""
        assert self.episodes is not None
        if self.memories is None and len(items) >= self.episodes:
            return super().draw(items, rng)
        last, n = rng.choice(items), self.episodes - 1
        others = items[items != last]
        if self.memories is not None:
            others = self.memories.among(others, rng)
        others = others if len(others) else np.array([-1])
        return np.append(rng.choice(others, n, replace=len(others) < n), last)


class DPTModule(BaselineModule):
    """Trains DPT; arguments of `BaselineModule`."""

    net: DPTransformer

    kind = "dpt"
    config_type = DPTConfig
    team_type = DPTTeam
    data_type = SetData

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
    def drawn(cls, model: Any, spec: Spec) -> int:
        """Counts the episodes of a chain: those of a set, and that of the queries."""
        return model.set_episodes + 1

    @classmethod
    def supervised(cls, model: Any, spec: Spec) -> int:
        """Counts the episodes of a chain whose actions are learned: that of the queries."""
        return 1

    @classmethod
    def data_options(cls, config: Any) -> dict[str, Any]:
        """Says how sets are drawn."""
        return {"lived": config.decision.lived}

    def setup(self, stage: str) -> None:
        """Refuses batches of another kind, and datasets without the expert's actions."""
        super().setup(stage)
        require_expert(self.data_module.stored.expert)

    def losses(self, batch: ChainBatch) -> dict[str, Tensor]:
        """Computes the loss of the expert's actions, given sets of random sizes."""
        context = packed(transitions(batch.chain.take(np.s_[:, :-1])))
        query = batch.chain.take(np.s_[:, -1])
        chance = torch.Generator().manual_seed(self.step_seed())
        B, C = context.mask.shape
        share = torch.rand(B, 1, generator=chance)
        in_set = torch.rand(B, C, generator=chance) < share
        in_set = context.mask & in_set.to(context.mask.device)
        tokens = self.net.tokens(context)

        def supervised(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """Logits (S, A), labels (S,), and errors of the hidden part (S,)."""
            queries = trimmed(query.take(rows))
            sets = packed(StepTokens(take_rows(tokens.x, rows), in_set[rows]))
            step = torch.arange(queries.actions.shape[1], device=rows.device)
            step = step.expand_as(queries.actions)
            past = sets.read(self.net.transformer)
            encoded = self.net.encoders.observation(queries.observations)
            expert = batch.expert[rows, -1, : step.shape[1]]
            mask = queries.step_mask & (expert >= 0)
            y = take_where(self.net.read(encoded, step, past), mask)
            logits = self.net.head(y, take_where(encoded.attack_targets, mask))
            errors = hidden_errors(self.net.infer, y, batch.hidden, rows, mask)
            return logits, expert[mask], errors

        return self.imitation(*concat_by_length(in_set.sum(1), supervised))
