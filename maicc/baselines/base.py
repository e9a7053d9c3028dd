"""What the rivals share: how they are trained, kept and put to play."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maicc.baselines.chains import ChainData
from maicc.config import BaselineConfig, DecisionConfig, OptimiserConfig, RunConfig
from maicc.files import ModelFiles
from maicc.fitting import MaiccModule
from maicc.lockstep import LockStepTeam
from maicc.types import Spec


class BaselineTeam(LockStepTeam):
    """A rival's team.

    Args:
        module: Trained.
        seeds: One per run.
        episodes: Planned number of adaptation episodes.
        options: The other arguments of `LockStepTeam`.
    """

    def __init__(
        self, module: BaselineModule, seeds: Sequence[int], episodes: int, **options: Any
    ) -> None:
        super().__init__(module.spec, seeds, **options)
        self.module, self.episodes = module, episodes
        self.net = module.net.to(self.device).eval()


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
    def chain_length(cls, baseline: BaselineConfig) -> int:
        """Episodes of a chain."""
        return baseline.episodes

    @classmethod
    def supervised(cls, baseline: BaselineConfig) -> int:
        """Episodes of a chain whose actions are learned."""
        return cls.chain_length(baseline)

    @classmethod
    def data(cls, config: RunConfig, files: ModelFiles) -> L.LightningDataModule:
        """Batches with as many supervised trajectories as the decision model's have."""
        episodes, learned = cls.chain_length(config.baseline), cls.supervised(config.baseline)
        chains = max(config.decision.batch_size // learned, 1)
        return ChainData(config.family, str(files.episodes), episodes, chains, config.seed)

    def team(
        self,
        seeds: Sequence[int],
        episodes: int,
        agent_mask: np.ndarray | None = None,
        agents: Sequence[int] | None = None,
        device: str | torch.device = "cpu",
    ) -> LockStepTeam:
        """One team per seed; arguments as those of `LockStepTeam`, and the planned episodes."""
        return self.team_type(
            self, seeds, episodes, agents=agents, agent_mask=agent_mask, device=device
        )

    def learn(self, logits: Tensor, actions: Tensor) -> Tensor:
        """Cross-entropy of logits (M, A) and actions (M,), shown with the share predicted right."""
        loss = F.cross_entropy(logits, actions, label_smoothing=self.network.label_smoothing)
        accuracy = (logits.argmax(-1) == actions).float().mean()
        self.log_dict({"loss": loss, "accuracy": accuracy}, prog_bar=True)
        return loss
