"""Trained files, loaded once, from which teams are made: MAICC's and its rivals'."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from maicc.config import MemoryConfig, RunConfig, from_json
from maicc.data.dataset import EpisodeFile, slices
from maicc.files import ModelFiles, read_json
from maicc.teams.lockstep import LockStepTeam
from maicc.teams.team import Team
from maicc.training.fit import resolve_device
from maicc.training.modules import DecisionModule, EmbeddingModule, load_module, weights_hash
from maicc.training.offline_keys import offline_keys, offline_memory
from maicc.types import Spec, UserError


class TrainedModels:
    """MAICC's dataset, keys and models."""

    method = "maicc"

    def __init__(
        self,
        files: ModelFiles,
        spec: Spec | None = None,
        device: str = "auto",
        index: str = "Flat",
    ) -> None:
        self.device = resolve_device(device)
        dataset = EpisodeFile(files.episodes)
        self.spec, self.tasks = dataset.require(spec or dataset.spec), dataset.tasks
        self.embedding = load_module(files.embedding, EmbeddingModule, self.spec).net
        self.decision = load_module(files.decision, DecisionModule, self.spec).net
        stored = slices(dataset.read(), self.spec.bounds)
        keys = offline_keys(self.embedding, dataset, files.embedding.parent, index, self.device)
        if self.device == "cuda":
            keys = keys._replace(index=keys.index.to_gpu())
        self.offline = offline_memory(keys, stored, self.spec)
        self.content = " ".join(
            [weights_hash(self.embedding), weights_hash(self.decision), dataset.fingerprint]
        )

    @property
    def parameters(self) -> int:
        """Numbers in the networks that act: the decision model and, with context, the student."""
        return count(self.decision) + (count(self.embedding) if self.decision.config.k else 0)

    def team(
        self,
        seeds: Sequence[int],
        memory: MemoryConfig | None = None,
        episodes: int | None = None,
        agent_mask: np.ndarray | None = None,
        explore: str = "sample",
        agents: Sequence[int] | None = None,
    ) -> Team:
        """One team per seed; arguments as those of `Team`. `explore` is the rivals'."""
        return Team(
            self.spec,
            self.embedding,
            self.decision,
            self.offline,
            memory or MemoryConfig(),
            seeds,
            episodes=episodes,
            agents=agents,
            agent_mask=agent_mask,
            device=self.device,
        )


class TrainedRival:
    """A rival's model; it needs no dataset to act."""

    def __init__(self, method: str, file: Path, spec: Spec, device: str = "auto") -> None:
        from maicc.baselines import module_of

        self.method, self.device = method, resolve_device(device)
        self.module = load_module(file, module_of(method), spec)
        self.spec, self.tasks = spec, ()  # it keeps none of the dataset
        self.content = f"{method} {weights_hash(self.module)}"

    @property
    def parameters(self) -> int:
        """Numbers in the networks that act."""
        return count(self.module.net)

    def team(
        self,
        seeds: Sequence[int],
        memory: MemoryConfig | None = None,
        episodes: int | None = None,
        agent_mask: np.ndarray | None = None,
        explore: str = "sample",
        agents: Sequence[int] | None = None,
    ) -> LockStepTeam:
        """One team per seed; `memory` is MAICC's and has no meaning here.

        Raises:
            UserError: `episodes` is not given.
        """
        if not episodes:
            raise UserError("give the number of episodes in advance: a rival may plan with it")
        options = {"explore": explore, "agents": agents, "device": self.device}
        return self.module.team(seeds, episodes, agent_mask, **options)


def count(net: torch.nn.Module) -> int:
    """Numbers in the parameters of a network, without those of parts it names `training_only`."""
    idle = getattr(net, "training_only", ())
    return sum(p.numel() for name, p in net.named_parameters() if name.split(".")[0] not in idle)


def load_models(
    method: str, files: ModelFiles, spec: Spec | None, device: str = "auto", index: str = "Flat"
) -> TrainedModels | TrainedRival:
    """What training left in these files, for a method."""
    if method == "maicc":
        return TrainedModels(files, spec, device, index)
    dataset = EpisodeFile(files.episodes)
    return TrainedRival(method, files.decision, dataset.require(spec or dataset.spec), device)


def run_config(folder: str | Path) -> RunConfig:
    """What a run was configured with; the defaults where its parts were made one by one."""
    path = Path(folder) / "config.json"
    if path.exists():
        return from_json(RunConfig, read_json(path), str(path))
    return RunConfig(EpisodeFile(ModelFiles.in_folder(folder).episodes).spec.family)


def load_folder(
    folder: str | Path, spec: Spec | None = None, device: str = "auto"
) -> TrainedModels | TrainedRival:
    """What `maicc run` left in a folder, with the method and the index it was configured with."""
    config, files = run_config(folder), ModelFiles.in_folder(folder)
    return load_models(config.method, files, spec, device, config.decision.retrieval.index)


def load_team(
    folder: str | Path,
    seed: int = 0,
    *,
    memory: MemoryConfig | None = None,
    episodes: int | None = None,
    agents: int | None = None,
    device: str = "auto",
) -> LockStepTeam:
    """One team of the models that `maicc run` left in `folder`, with an empty online memory.

    Args:
        memory: The run's own settings by default.
        episodes: Planned number of adaptation episodes, for schedules and rivals that need it; the
            run's own by default.
        agents: How many the team has, where teams differ in size; the most by default.
    """
    settings = run_config(folder).adapt
    models = load_folder(folder, None, device)
    most = models.spec.n_agents
    agents = most if agents is None else agents
    if not 1 <= agents <= most:
        raise UserError(f"agents={agents} must be 1 to {most}, the most of {models.spec.family}")
    return models.team(
        [seed],
        memory or settings.memory,
        episodes or settings.episodes,
        np.arange(most)[None] < agents,
        settings.explore,
        range(agents),
    )
