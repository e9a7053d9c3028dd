"""AD, algorithm distillation (Laskin et al. 2023): imitation of a learner's whole history.

The model predicts each action from a stream of observations, actions and outcomes over episodes in
the order in which a behaviour policy got better, with no return-to-go; at test time the stream is
its own. The dataset has no learner's history: episodes are ordered by the level of the policy
that played them. The stream rolls on from episode to episode: the running one and as many before it
as a chain has.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maicc.baselines.chains import ChainBatch
from maicc.baselines.sequence import SequenceModule, latest
from maicc.memory import OnlineMemory
from maicc.tokens import ACTION, OBSERVATION, OUTCOME
from maicc.types import Trajectories


class ADModule(SequenceModule):
    """AD; arguments of `BaselineModule`."""

    kind = "ad"
    kinds = (OBSERVATION, ACTION, OUTCOME)

    def prepare(self, batch: ChainBatch) -> tuple[Trajectories, Tensor]:
        order = batch.level.argsort(dim=1, stable=True)
        row = torch.arange(len(order), device=order.device)[:, None]
        chain = Trajectories(*(part[row, order] for part in batch.chain))
        return chain, chain.step_mask

    def contexts(self, online: OnlineMemory) -> Trajectories | None:
        return latest(online, self.baseline.episodes - 1)
