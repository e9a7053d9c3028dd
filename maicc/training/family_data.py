"""What all batches for training come from: the dataset of a task family."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
from torch.utils.data import DataLoader, IterableDataset

from maicc.config import CollectConfig
from maicc.data.collect import collect
from maicc.data.dataset import EpisodeFile, spec_with_bounds
from maicc.envs import get_family


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
        self.spec = spec_with_bounds(self.family.spec, self.path)

    def prepare_data(self) -> None:
        if not self.path.exists():
            collect(self.family, self.path, CollectConfig(), self.seed)
        EpisodeFile(self.path).require(self.spec)

    @abstractmethod
    def batches(self, step: int) -> Iterator[Any]:
        """Batches from a fit's step on; they follow from the seed and the step alone."""

    def train_dataloader(self):
        return endless_loader(self.batches, self)


class _Batches(IterableDataset):
    def __init__(self, make: Callable[[int], Iterator[Any]], data: L.LightningDataModule) -> None:
        self.make, self.data = make, data

    def __iter__(self) -> Iterator[Any]:
        trainer = self.data.trainer
        return self.make(trainer.global_step * trainer.accumulate_grad_batches)


def endless_loader(make: Callable[[int], Iterator[Any]], data: L.LightningDataModule) -> DataLoader:
    """Whole batches from `make(first_step)`; a resumed fit starts at its step."""
    return DataLoader(_Batches(make, data), batch_size=None)
