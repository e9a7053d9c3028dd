"""What the rivals share: how they are trained, kept and put to play."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from maicc.config import OptimiserConfig, PolicyConfig
from maicc.files import ModelFiles
from maicc.teams.lockstep import LockStepTeam
from maicc.training.chain_data import ChainData
from maicc.training.family_data import FamilyData
from maicc.training.modules import MaiccModule
from maicc.types import Spec, UserError

GREEDY = 0.1  # of the episodes, at the end, in which no method samples


class BaselineTeam(LockStepTeam):
    """A rival's team.

    Args:
        module: Trained.
        seeds: One per run.
        episodes: Planned number of adaptation episodes.
        explore: `sample` or `greedy`, for methods that sample.
        options: The other arguments of `LockStepTeam`.
    """

    def __init__(
        self,
        module: BaselineModule,
        seeds: Sequence[int],
        episodes: int,
        explore: str = "sample",
        **options: Any,
    ) -> None:
        super().__init__(module.spec, seeds, **options)
        self.module, self.episodes = module, episodes
        self.explores = module.explores and explore == "sample"
        self.net = module.net.to(self.device).eval()

    def on_episode_start(self) -> None:
        pass

    def sampling(self) -> float:
        last = max(round(GREEDY * self.episodes), 1)
        return float(self.explores and self.episode < self.episodes - last)


class BaselineModule(MaiccModule):
    """Trains a rival's network `net`.

    Args:
        spec: Sizes of the task family; the data module fills it in.
        model: The rival's transformer.
        optimiser: AdamW and its schedule.
    """

    config_type = PolicyConfig
    team_type: ClassVar[type[BaselineTeam]]
    data_type: ClassVar[type[FamilyData]] = ChainData
    explores: ClassVar[bool] = True  # whether it samples actions to find out

    def __init__(
        self,
        spec: Spec | None = None,
        model: PolicyConfig = PolicyConfig(),  # noqa: B008 - never changed
        optimiser: OptimiserConfig = OptimiserConfig(),  # noqa: B008
    ) -> None:
        super().__init__(spec, model, optimiser)
        self.net = self.make_net()

    @abstractmethod
    def make_net(self) -> nn.Module:
        """The untrained network."""

    @classmethod
    def drawn(cls, model: Any) -> int:
        """Counts the episodes of a chain in a batch."""
        return model.episodes

    @classmethod
    def supervised(cls, model: Any) -> int:
        """Counts those of them whose actions are learned."""
        return model.episodes

    @classmethod
    def data(cls, config: Any, files: ModelFiles) -> FamilyData:
        """Makes batches with as many supervised trajectories as the decision model's have.

        Args:
            config: A run of this rival.
        """
        fit = config.decision
        chains = max(fit.batch_size // cls.supervised(fit.model), 1)
        return ChainData(
            config.family, str(files.episodes), cls.drawn(fit.model), chains, config.seed
        )

    def setup(self, stage: str) -> None:
        """Refuses batches of another kind."""
        data = self.trainer.datamodule
        if not isinstance(data, self.data_type):
            raise UserError(f"{type(self).__name__} is trained on {self.data_type.__name__}")
        if isinstance(data, ChainData) and data.episodes != self.drawn(self.config):
            raise UserError(
                f"the data module draws chains of {data.episodes} episodes, the model takes "
                f"{self.drawn(self.config)}; set data.init_args.episodes={self.drawn(self.config)}"
            )

    def team(
        self,
        seeds: Sequence[int],
        episodes: int,
        agent_mask: np.ndarray | None = None,
        explore: str = "sample",
        **options: Any,
    ) -> LockStepTeam:
        """One team per seed; arguments as those of `BaselineTeam`."""
        return self.team_type(self, seeds, episodes, explore, agent_mask=agent_mask, **options)

    def learn(self, logits: Tensor, actions: Tensor) -> Tensor:
        """Cross-entropy of logits (M, A) and actions (M,), shown with the share predicted right."""
        loss = F.cross_entropy(logits, actions, label_smoothing=self.config.label_smoothing)
        accuracy = (logits.argmax(-1) == actions).float().mean()
        self.log_dict({"loss": loss, "accuracy": accuracy}, prog_bar=True)
        return loss
