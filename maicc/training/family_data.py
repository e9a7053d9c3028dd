"""The dataset of a task family, the source of all batches for training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
from torch.utils.data import DataLoader, IterableDataset

from maicc.config import MOST_SEED, CollectConfig
from maicc.data.collect import collect
from maicc.data.contract import check_family
from maicc.data.dataset import EpisodeFile, spec_with_bounds
from maicc.envs import get_family
from maicc.files import locked
from maicc.types import UserError


class FamilyData(L.LightningDataModule):
    """Source of batches without end: a dataset, which is collected first if it does not exist.

    Args:
        family: Task family; `maicc tasks` lists them.
        path: The dataset.
        seed: Seed of the batches.
    """

    def __init__(self, family: str, path: str, seed: int) -> None:
        super().__init__()
        if not 0 <= seed <= MOST_SEED:
            raise UserError(f"data.seed={seed} must be at least 0 and at most {MOST_SEED}")
        self.family, self.path, self.seed = get_family(family), Path(path), seed
        self.spec = spec_with_bounds(self.family.spec, self.path)

    def prepare_data(self) -> None:
        """Collects the dataset if it does not exist, and checks that it fits the family."""
        with locked(self.path):
            if not self.path.exists():
                check_family(self.family)
                collect(self.family, self.path, CollectConfig(), self.seed)
        EpisodeFile(self.path).require(self.spec)

    @abstractmethod
    def batches(self, step: int, rank: int = 0) -> Iterator[Any]:
        """Yields batches without end, which follow from seed, step and rank alone.

        Args:
            step: Number of the first batch: a resumed fit goes on with the batches it would have
                had.
            rank: The process's number among those that train together.
        """

    def train_dataloader(self) -> DataLoader:
        """Wraps `batches` for Lightning."""
        return DataLoader(_Batches(self), batch_size=None)


class _Batches(IterableDataset):
    """Whole batches without end; a resumed fit starts at its step."""

    def __init__(self, data: FamilyData) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Any]:
        trainer = self.data.trainer
        assert trainer is not None
        step = trainer.global_step * trainer.accumulate_grad_batches
        return self.data.batches(step, trainer.global_rank)
