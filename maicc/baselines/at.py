"""AT, the agentic transformer (Liu and Abbeel 2023): it sees episodes that get ever better.

A chain of episodes of one task is sorted by return, ascending. The return-to-go of every episode
starts from the best return of the chain, and only the one that reaches it is marked as completed.
At test time the latest episodes are sorted the same way and the running one asks for the maximum.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maicc.baselines.options import ATConfig
from maicc.baselines.sequence import SequenceModule, latest
from maicc.config import OptimiserConfig
from maicc.data.returns import COMPLETION_MARGIN
from maicc.memory import OnlineMemory
from maicc.models.batching import tensors
from maicc.models.tokens import ACTION, OBSERVATION, OUTCOME, RETURN_TO_GO
from maicc.training.chain_data import ChainBatch, reordered
from maicc.types import Spec, Trajectories


def relabelled(chain: Trajectories, best: Tensor, spec: Spec) -> Trajectories:
    """Relabels every episode of chains (B, E, T, ...) to ask for the return `best` (B,).

    The return-to-go of an episode starts at `best` and drops by its rewards. The episode is
    completed at its last step if its return is `best`, to within the margin.
    """
    so_far = chain.rewards.cumsum(-1)
    low, high = spec.bounds
    reached = so_far[..., -1] >= best[:, None] - COMPLETION_MARGIN * (high - low)
    return chain._replace(
        return_to_go=(best[:, None, None] - so_far + chain.rewards) * chain.step_mask,
        completed=chain.done * reached.unsqueeze(-1),
    )


class ATModule(SequenceModule):
    """Trains AT; arguments of `BaselineModule`."""

    kind = "at"
    config_type = ATConfig
    kinds = (RETURN_TO_GO, OBSERVATION, ACTION, OUTCOME)

    def __init__(
        self,
        spec: Spec | None = None,
        model: ATConfig = ATConfig(),  # noqa: B008 - never changed
        optimiser: OptimiserConfig = OptimiserConfig(),  # noqa: B008
    ) -> None:
        super().__init__(spec, model, optimiser)

    @classmethod
    def supervised(cls, model: Any, spec: Spec) -> int:
        """Counts the episodes of a chain whose actions are learned: all of them, or the last."""
        return 1 if model.supervise == "last" else model.episodes

    def running(self, current: Trajectories) -> Trajectories:
        """Marks the running episodes completed at their last step alone, as `relabelled` does."""
        return current._replace(completed=current.completed * current.done)

    def prepare(self, batch: ChainBatch) -> tuple[Trajectories, Tensor]:
        """Sorts each chain by return, ascending, and relabels it with its best return.

        Where the last episodes alone are learned from, chains are cut to all lengths, as a team has
        all of them.
        """
        chain, returns = batch.chain, batch.chain.rewards.sum(-1)
        B, E = returns.shape
        length = torch.full((B, 1), E, device=returns.device)
        if self.config.supervise == "last":
            chance = torch.Generator().manual_seed(self.step_seed())
            length = torch.randint(1, E + 1, (B, 1), generator=chance).to(returns.device)
        place = torch.arange(E, device=returns.device)
        kept = place < length
        chain = chain._replace(step_mask=chain.step_mask & kept[..., None])
        chain = reordered(chain, returns.masked_fill(~kept, torch.inf))  # those cut off come last
        best = chain.rewards.sum(-1).gather(1, length - 1)[:, 0]
        chain = relabelled(chain, best, self.spec)
        if self.config.supervise == "last":
            return chain, chain.step_mask & (place == length - 1)[..., None]
        return chain, chain.step_mask

    def contexts(self, online: OnlineMemory) -> Trajectories | None:
        """The latest episodes, sorted by return and relabelled with the maximum."""
        episodes = latest(online, self.config.episodes - 1)
        if episodes is None:
            return None
        chain = tensors(episodes)
        chain = reordered(chain, chain.rewards.sum(-1))
        best = torch.full((len(chain.actions),), float(self.spec.bounds[1]))
        return relabelled(chain, best, self.spec).each(lambda part: part.numpy())
