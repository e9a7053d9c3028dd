"""The dataset of a task family, the source of all batches for training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from maicc.config import MOST_SEED, CollectConfig
from maicc.data.collect import collect
from maicc.data.contract import check_family
from maicc.data.dataset import EpisodeFile, spec_with_bounds
from maicc.data.episodes import EpisodeBatch
from maicc.envs import get_family
from maicc.files import locked
from maicc.streams import Stream
from maicc.types import UserError

MOST_HELD_BACK = 0.5  # share of the dataset
_WHOLE_TASKS = 4  # held back, at least; of fewer one would not know whether they are easy
_BATCHES = 8  # of held-back episodes: a pass takes as long as about three steps of training


class FamilyData(L.LightningDataModule):
    """Source of batches without end: a dataset, which is collected first if it does not exist.

    Args:
        family: Task family; `maicc tasks` lists them.
        path: The dataset.
        seed: Seed of the batches.
        held_back: Share of the dataset that is not trained on, see `hold_back`.
    """

    def __init__(self, family: str, path: str, seed: int, held_back: float = 0.0) -> None:
        super().__init__()
        if not 0 <= seed <= MOST_SEED:
            raise UserError(f"data.seed={seed} must be at least 0 and at most {MOST_SEED}")
        if not 0 <= held_back <= MOST_HELD_BACK:
            raise UserError(
                f"data.held_back={held_back} must be at least 0 and at most {MOST_HELD_BACK}"
            )
        self.family, self.path, self.seed = get_family(family), Path(path), seed
        self.held_back, self.holds_back = held_back, False
        self.spec = spec_with_bounds(self.family.spec, self.path)

    def prepare_data(self) -> None:
        """Collects the dataset if it does not exist, and checks that it fits the family."""
        with locked(self.path):
            if not self.path.exists():
                check_family(self.family)
                print(
                    f"{self.path} is not there, and is collected with settings that suit any "
                    f"family; `maicc collect {self.family.name} --out FILE` has this family's own"
                )
                collect(self.family, self.path, CollectConfig(), self.seed)
        dataset = EpisodeFile(self.path)
        dataset.require(self.spec)
        dataset.require_family(self.family)

    def hold_back(self, episodes: EpisodeBatch) -> np.ndarray:
        """Marks the episodes (E,) that are not trained on.

        Whole tasks where the share makes a few of them: what a model knows of these is what it
        knows of new tasks, also where it has learned its records by heart. Else an even share of
        every task and behaviour. They follow from the dataset and the seed, so that fits of a run
        that hold back the same share hold back the same.
        """
        rng = np.random.default_rng([self.seed, Stream.HELD_BACK])
        tasks = np.unique(episodes.task)
        whole = int(self.held_back * len(tasks))
        if whole >= _WHOLE_TASKS:
            held = np.isin(episodes.task, rng.choice(tasks, whole, replace=False))
        else:
            order = np.lexsort((rng.random(len(episodes.task)), episodes.behaviour, episodes.task))
            counted = np.floor(np.arange(len(order) + 1) * self.held_back)
            held = np.zeros(len(order), bool)
            held[order[np.diff(counted) > 0]] = True
        self.holds_back = bool(held.any())
        return held

    def hidden_parts(self) -> torch.Tensor | None:
        """Hidden parts (tasks, R) of the dataset's tasks, on a scale of about 1.

        None if the family does not tell them.
        """
        if not self.spec.hidden:
            return None
        parts = np.stack([self.family.hidden_part(t) for t in EpisodeFile(self.path).tasks])
        return torch.from_numpy((parts - parts.mean(0)) / np.maximum(parts.std(0), 1e-6))

    @abstractmethod
    def batches(self, step: int, rank: int = 0, *, held_back: bool = False) -> Iterator[Any]:
        """Yields batches without end, which follow from seed, step and rank alone.

        Args:
            step: Number of the first batch: a resumed fit goes on with the batches it would have
                had.
            rank: The process's number among those that train together.
            held_back: Whether what is to be predicted is of the episodes that are held back; else
                no batch shows anything of them.
        """

    def held_back_batches(self) -> list[Any]:
        """Makes the batches on which a fit is measured, always the same; none if none are."""
        return [*islice(self.batches(0, held_back=True), _BATCHES)] if self.holds_back else []

    def train_dataloader(self) -> DataLoader:
        """Wraps `batches` for Lightning."""
        return DataLoader(_Batches(self), batch_size=None)

    def val_dataloader(self) -> Any:
        """Wraps `held_back_batches` for Lightning; an empty list means none to it."""
        batches: Any = self.held_back_batches()
        return DataLoader(batches, batch_size=None) if batches else []


class _Batches(IterableDataset):
    """Whole batches without end; a resumed fit starts at its step."""

    def __init__(self, data: FamilyData) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Any]:
        trainer = self.data.trainer
        assert trainer is not None
        step = trainer.global_step * trainer.accumulate_grad_batches
        return self.data.batches(step, trainer.global_rank)
