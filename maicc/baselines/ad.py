"""AD, algorithm distillation (Laskin et al. 2023): imitation of a learner's whole history.

The model predicts each action from a stream of observations, actions and outcomes over episodes in
the order in which a behaviour policy got better, with no return-to-go. The dataset has no learner's
history. Episodes are ordered by the level of the policy that played them instead, and the model is
trained on a row of them from anywhere in that order. At test time the stream is the agent's own. It
holds the running episode and as many before it as in training, and rolls on with every episode.
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

HISTORY = 3  # length of a history in training, in rows of `config.episodes` episodes


class ADModule(SequenceModule):
    """Trains AD; arguments of `BaselineModule`."""

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
        """Counts the episodes of a history, of which a row is shown."""
        return HISTORY * model.episodes

    def prepare(self, batch: ChainBatch) -> tuple[Trajectories, Tensor]:
        """Draws a row of each history, which is ordered by level; all its steps are learned."""
        history, length = reordered(batch.chain, batch.level), self.config.episodes
        B, E = batch.level.shape
        chance = torch.Generator().manual_seed(self.step_seed())
        first = torch.randint(E - length + 1, (B, 1), generator=chance)
        episodes = (first + torch.arange(length)).to(batch.level.device)  # (B, length)
        row = torch.arange(B, device=episodes.device)[:, None]
        chain = Trajectories(*(part[row, episodes] for part in history))
        return chain, chain.step_mask

    def contexts(self, online: OnlineMemory) -> Trajectories | None:
        """The latest episodes, oldest first: (rows, C, T, ...) arrays; None if there are none."""
        return latest(online, self.config.episodes - 1)
