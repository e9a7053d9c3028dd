"""What all batches for training come from: the dataset of a task family."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L

from maicc.config import CollectConfig
from maicc.data.collect import collect
from maicc.data.dataset import EpisodeFile, known_spec
from maicc.envs import get_family
from maicc.training.fit import endless_loader


class FamilyData(L.LightningDataModule):
    """Batches without end from a dataset, which is collected first if it does not exist.

    Args:
        family: Task family; `maicc tasks` lists them.
        path: The dataset.
        seed: Seed of the batches.
    """

    def __init__(self, family: str, path: str, seed: int) -> None:
        super().__init__()
        self.family, self.path, self.seed = get_family(family), Path(path), seed
        self.spec = known_spec(self.family.spec, self.path)

    def prepare_data(self) -> None:
        if not self.path.exists():
            collect(self.family, self.path, CollectConfig(), self.seed)
        EpisodeFile(self.path).require(self.spec)

    @abstractmethod
    def batches(self, step: int) -> Iterator[Any]:
        """Batches from a fit's step on; they follow from the seed and the step alone."""

    def train_dataloader(self):
        return endless_loader(self.batches, self)
