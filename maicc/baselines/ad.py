"""AD, algorithm distillation (Laskin et al. 2023): imitation of a learner's whole history.

The model predicts each action from a stream of observations, actions and outcomes over episodes in
the order in which a behaviour policy got better, with no return-to-go; at test time the stream is
its own. The dataset has no learner's history: episodes are ordered by the level of the policy
that played them, and a row of them from anywhere in that order is shown. The stream rolls on from
episode to episode: the running one and as many before it as were shown.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maicc.baselines.options import ADConfig
from maicc.baselines.sequence import SequenceModule, latest
from maicc.config import OptimiserConfig
from maicc.memory import OnlineMemory
from maicc.models.tokens import ACTION, OBSERVATION, OUTCOME
from maicc.training.chain_data import ChainBatch, reordered
from maicc.types import Spec, Trajectories

HISTORY = 3  # a history in training is so many times as long as what is shown of it


class ADModule(SequenceModule):
    """AD; arguments of `BaselineModule`."""

    kind = "ad"
    config_type = ADConfig
    kinds = (OBSERVATION, ACTION, OUTCOME)

    def __init__(
        self,
        spec: Spec | None = None,
        model: ADConfig = ADConfig(),  # noqa: B008 - never changed
        optimiser: OptimiserConfig = OptimiserConfig(),  # noqa: B008
    ) -> None:
        super().__init__(spec, model, optimiser)

    @classmethod
    def drawn(cls, model: Any) -> int:
        return HISTORY * model.episodes

    def prepare(self, batch: ChainBatch) -> tuple[Trajectories, Tensor]:
        history, length = reordered(batch.chain, batch.level), self.config.episodes
        B, E = batch.level.shape
        chance = torch.Generator().manual_seed(self.step_seed())
        first = torch.randint(E - length + 1, (B, 1), generator=chance)
        at = (first + torch.arange(length)).to(batch.level.device)
        row = torch.arange(B, device=at.device)[:, None]
        chain = Trajectories(*(part[row, at] for part in history))
        return chain, chain.step_mask

    def contexts(self, online: OnlineMemory) -> Trajectories | None:
        return latest(online, self.config.episodes - 1)
