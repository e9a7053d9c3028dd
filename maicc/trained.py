"""Trained files, loaded once, from which teams are made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maicc.config import DecisionConfig, EmbeddingConfig, MemoryConfig
from maicc.dataset import EpisodeFile, slices
from maicc.decision import DecisionModule
from maicc.embedding import EmbeddingModule
from maicc.files import ModelFiles, read_json
from maicc.fitting import load_module, resolve_device, weights_hash
from maicc.keys import offline_keys, offline_memory
from maicc.team import Team
from maicc.types import Spec


class TrainedModels:
    """Dataset, keys and models, loaded once, from which teams are made."""

    def __init__(
        self,
        files: ModelFiles,
        spec: Spec | None = None,
        device: str = "auto",
        index: str = "Flat",
    ) -> None:
        self.device = resolve_device(device)
        dataset = EpisodeFile(files.episodes)
        self.spec = dataset.require(spec or dataset.spec)
        self.embedding = load_module(
            files.embedding, EmbeddingModule, EmbeddingConfig, self.spec
        ).net
        self.decision = load_module(files.decision, DecisionModule, DecisionConfig, self.spec).net
        stored = slices(dataset.read(), self.spec.bounds)
        keys = offline_keys(self.embedding, dataset, files.embedding.parent, index, self.device)
        if self.device == "cuda":
            keys = keys._replace(index=keys.index.to_gpu())
        self.offline = offline_memory(keys, stored, self.spec)
        self.content = " ".join(
            [weights_hash(self.embedding), weights_hash(self.decision), dataset.fingerprint]
        )

    def team(
        self,
        seeds: Sequence[int],
        memory: MemoryConfig | None = None,
        episodes: int | None = None,
        agent_mask: np.ndarray | None = None,
    ) -> Team:
        """One team per seed; arguments as those of `Team`."""
        return Team(
            self.spec,
            self.embedding,
            self.decision,
            self.offline,
            memory or MemoryConfig(),
            seeds,
            episodes=episodes,
            agent_mask=agent_mask,
            device=self.device,
        )


def index_of(folder: str | Path) -> str:
    """The FAISS index that the run in `folder` was configured with."""
    path = Path(folder) / "config.json"
    return read_json(path)["decision"]["retrieval"]["index"] if path.exists() else "Flat"


def load_team(
    folder: str | Path,
    seed: int = 0,
    *,
    memory: MemoryConfig | None = None,
    episodes: int | None = None,
    device: str = "auto",
) -> Team:
    """One team of the models that `maicc run` left in `folder`, with an empty online memory."""
    models = TrainedModels(ModelFiles.in_folder(folder), None, device, index_of(folder))
    return models.team([seed], memory, episodes)
