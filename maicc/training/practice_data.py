"""Batches for practice: half of the dataset, half of what a trained team lived through."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maicc.data.slices import Slices
from maicc.files import read_arrays, write_arrays
from maicc.streams import Stream
from maicc.training.checkpoints import load_module
from maicc.training.modules import EmbeddingModule
from maicc.training.offline_keys import OfflineKeys, embed
from maicc.training.record_data import Drawn, RecordData
from maicc.types import Trajectories, UserError


class PracticeRuns(NamedTuple):
    """Adaptation runs, as each agent lived through them: rows are agents of runs."""

    trajectories: Trajectories  # (rows, E, T, ...) arrays, episodes in the order they were played
    expert: np.ndarray  # (rows, E, T) int64, what the best behaviour policy would have done; or -1
    task: np.ndarray  # (rows,) number of the dataset's task

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        own = {"expert": self.expert, "task": self.task}
        write_arrays(path, own | self.trajectories._asdict())

    @classmethod
    def read(cls, path: Path) -> PracticeRuns:
        """Reads a file.

        Raises:
            UserError: it is missing or damaged.
        """
        arrays = read_arrays(path)
        try:
            trajectories = Trajectories(*(arrays[name] for name in Trajectories._fields))
            return cls(trajectories, arrays["expert"], arrays["task"])
        except KeyError as error:
            raise UserError(f"{path}: no runs of a practice ({error}); remove it") from None


class PracticeData(RecordData):
    """Batches with a record, half of them from adaptation runs.

    In a query of a run the agent remembers all episodes before it.

    Args:
        runs: File of the runs.
        practised: Number of the round, from 1.
        options: Arguments of `RecordData`.
    """

    def __init__(self, runs: str, practised: int = 1, **options: Any) -> None:
        super().__init__(**options)
        self.runs_path = Path(runs)
        self.stream = (Stream.PRACTICE_BATCHES, practised)

    def use(self, keys: OfflineKeys | None, stored: Slices, held: np.ndarray | None = None) -> None:
        """Sets the dataset's trajectories and keys, and puts those of the runs behind them."""
        super().use(keys, stored, held)
        runs = PracticeRuns.read(self.runs_path)
        lived, s = runs.trajectories.observations.shape, self.spec
        if lived[2:] != (s.max_steps, s.observation_size) or lived[:3] != runs.expert.shape:
            raise UserError(f"{self.runs_path}: not the runs of this family; remove it")
        self.episodes = runs.expert.shape[1]
        self.first_of_runs = len(self.length)
        trained_on = np.isin(runs.task, self.task[~self.held])  # others are held back whole
        self.runs_trained_on = np.flatnonzero(trained_on)
        flat = runs.trajectories.each(lambda part: part.reshape(-1, *part.shape[2:]))
        expert = runs.expert.reshape(-1, s.max_steps)
        self.stored = stored.followed_by(flat, expert, np.repeat(runs.task, self.episodes))
        self.team_return = self.stored.trajectories.return_to_go[:, 0]
        self.length, self.task = self.stored.length, self.stored.task
        self.episode = self.stored.episode
        if self.vectors is not None:
            module = load_module(self.embedding, EmbeddingModule, self.spec)
            self.vectors = np.concatenate([self.vectors, embed(module.net, flat)[0]])

    def _draw(self, rng: np.random.Generator, n: int, held_back: bool) -> list[Drawn]:
        half = 0 if held_back or not len(self.runs_trained_on) else n // 2
        return super()._draw(rng, n - half, held_back) + [self._draw_run(rng) for _ in range(half)]

    def _draw_run(self, rng: np.random.Generator) -> Drawn:
        """Draws an episode of a run, and those that its agent had lived through before."""
        row, episode = rng.choice(self.runs_trained_on), rng.integers(self.episodes)
        first = self.first_of_runs + row * self.episodes
        return Drawn(np.array([first + episode]), first + np.arange(episode))
