"""What the rivals share: how they are trained, kept and put to play."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import lightning as L
import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from maicc.config import BaselineConfig, DecisionConfig, OptimiserConfig, RunConfig
from maicc.files import ModelFiles
from maicc.teams.lockstep import LockStepTeam
from maicc.training.chain_data import ChainData
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
        network: Sizes of the transformer, those of MAICC's decision model.
        optimiser: AdamW and its schedule.
        baseline: Options of the method.
    """

    config_type = DecisionConfig
    team_type: ClassVar[type[BaselineTeam]]
    data_type: ClassVar[type[L.LightningDataModule]] = ChainData
    explores: ClassVar[bool] = True  # whether it samples actions to find out

    def __init__(
        self,
        spec: Spec | None = None,
        network: DecisionConfig = DecisionConfig(),  # noqa: B008 - never changed
        optimiser: OptimiserConfig = OptimiserConfig(),  # noqa: B008
        baseline: BaselineConfig = BaselineConfig(),  # noqa: B008
    ) -> None:
        super().__init__(spec, network, optimiser)
        self.baseline = baseline
        self.net = self.make_net()

    @abstractmethod
    def make_net(self) -> nn.Module:
        """The untrained network."""

    @classmethod
    def from_header(cls, spec: Spec, header: Mapping[str, Any]) -> BaselineModule:
        network = DecisionConfig(**header["network"])
        return cls(spec, network, baseline=BaselineConfig(**header["baseline"]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["maicc"]["baseline"] = asdict(self.baseline)

    @classmethod
    def drawn(cls, baseline: BaselineConfig) -> int:
        """Episodes of a chain in a batch."""
        return baseline.episodes

    @classmethod
    def supervised(cls, baseline: BaselineConfig) -> int:
        """How many of them have their actions learned."""
        return baseline.episodes

    @classmethod
    def data(cls, config: RunConfig, files: ModelFiles) -> L.LightningDataModule:
        """Batches with as many supervised trajectories as the decision model's have."""
        chains = max(config.decision.batch_size // cls.supervised(config.baseline), 1)
        drawn = cls.drawn(config.baseline)
        return ChainData(config.family, str(files.episodes), drawn, chains, config.seed)

    def setup(self, stage: str) -> None:
        """Refuses batches of another kind."""
        data, drawn = self.trainer.datamodule, self.drawn(self.baseline)
        if not isinstance(data, self.data_type):
            raise UserError(f"{type(self).__name__} is trained on {self.data_type.__name__}")
        if isinstance(data, ChainData) and data.episodes != drawn:
            raise UserError(
                f"the data module draws chains of {data.episodes} episodes, the model takes "
                f"{drawn}; set data.init_args.episodes={drawn}"
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
        loss = F.cross_entropy(logits, actions, label_smoothing=self.network.label_smoothing)
        accuracy = (logits.argmax(-1) == actions).float().mean()
        self.log_dict({"loss": loss, "accuracy": accuracy}, prog_bar=True)
        return loss
