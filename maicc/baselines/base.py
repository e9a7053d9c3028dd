"""What the rivals share: how they are trained, kept and put to play."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maicc.baselines.chains import ChainData
from maicc.config import BaselineConfig, DecisionConfig, OptimiserConfig, RunConfig
from maicc.files import ModelFiles
from maicc.fitting import MaiccModule
from maicc.lockstep import LockStepTeam
from maicc.types import Spec


class BaselineModule(MaiccModule):
    """Trains a rival's network `net`.

    Args:
        spec: Sizes of the task family; the data module fills it in.
        network: Sizes of the transformer, those of MAICC's decision model.
        optimiser: AdamW and its schedule.
        baseline: Options of the method.
    """

    config_type = DecisionConfig

    def __init__(
        self,
        spec: Spec | None = None,
        network: DecisionConfig = DecisionConfig(),  # noqa: B008 - never changed
        optimiser: OptimiserConfig = OptimiserConfig(),  # noqa: B008
        baseline: BaselineConfig = BaselineConfig(),  # noqa: B008
    ) -> None:
        super().__init__(spec, network, optimiser)
        self.baseline = baseline

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

    def start_from(self, retriever: Path) -> None:
        """Before training: takes over the checkpoint that an earlier stage left."""

    @abstractmethod
    def team(
        self,
        seeds: Sequence[int],
        episodes: int,
        agent_mask: np.ndarray | None = None,
        agents: Sequence[int] | None = None,
        device: str | torch.device = "cpu",
    ) -> LockStepTeam:
        """One team per seed; arguments as those of `LockStepTeam`, and the planned episodes."""

    def learn(self, logits: Tensor, actions: Tensor) -> Tensor:
        """Cross-entropy of logits (M, A) and actions (M,), shown with the share predicted right."""
        loss = F.cross_entropy(logits, actions, label_smoothing=self.network.label_smoothing)
        accuracy = (logits.argmax(-1) == actions).float().mean()
        self.log_dict({"loss": loss, "accuracy": accuracy}, prog_bar=True)
        return loss
