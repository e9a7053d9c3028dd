"""Trained networks, loaded once, from which teams are made: MAICC's and a rival's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from maicc.baselines.base import BaselineModule
from maicc.baselines.method import Trained, own_options
from maicc.baselines.options import SamplingAdapt
from maicc.config import AdaptConfig, MaiccAdapt
from maicc.data.dataset import EpisodeFile
from maicc.data.slices import slices
from maicc.files import ModelFiles
from maicc.models.embedding import Embedding
from maicc.models.matrix_search import MatrixSearch
from maicc.teams.lockstep import LockStepTeam
from maicc.teams.team import Team
from maicc.training.checkpoints import load_module, weights_hash
from maicc.training.fit import resolve_device
from maicc.training.modules import DecisionModule, EmbeddingModule
from maicc.training.offline_keys import offline_keys, offline_memory
from maicc.types import Spec


class TrainedMAICC(Trained):
    """Dataset, keys and networks of MAICC.

    Args:
        files: Dataset and checkpoints.
        spec: Sizes that are expected; those of the dataset if None.
        device: Where the networks run.
        index: A FAISS index_factory string, as in training.
        acting: The fit whose checkpoint holds the decision model that acts.
    """

    embedding: Embedding | None = None

    def __init__(
        self,
        files: ModelFiles,
        spec: Spec | None = None,
        device: str = "auto",
        index: str = "Flat",
        acting: str = "decision",
    ) -> None:
        self.device = resolve_device(device)
        dataset = EpisodeFile(files.episodes)
        self.spec, self.tasks = dataset.require(spec or dataset.spec), dataset.tasks
        self.rosters = dataset.rosters
        self.decision = load_module(files[acting], DecisionModule, self.spec).net
        acts: list[torch.nn.Module] = [self.decision]
        stored, keys = slices(dataset.mapped(), self.spec.bounds), None
        if self.decision.config.k:
            path = files["embedding"]
            self.embedding = load_module(path, EmbeddingModule, self.spec).net
            keys = offline_keys(self.embedding, dataset, path.parent, index, self.device)
            if self.device == "cuda":
                exact = partial(MatrixSearch, device=self.device)
                keys = keys._replace(index=keys.index.on_gpu(exact))
            acts.insert(0, self.embedding)
        self.offline = offline_memory(keys, stored, self.spec)
        self.content = " ".join([*map(weights_hash, acts), dataset.fingerprint])
        self.parameters = sum(map(count_parameters, acts))

    def team(
        self,
        seeds: Sequence[int],
        adapt: AdaptConfig | None = None,
        *,
        agent_mask: np.ndarray | None = None,
        agents: Sequence[int] | None = None,
    ) -> Team:
        options: MaiccAdapt = own_options(adapt, MaiccAdapt, "maicc")
        return Team(
            self.spec,
            self.embedding,
            self.decision,
            self.offline,
            options.memory,
            seeds,
            episodes=options.episodes,
            states_bounds=self.knows_maximum,
            agents=agents,
            agent_mask=agent_mask,
            device=self.device,
        )


class TrainedRival(Trained):
    """Network of a rival, whose teams need no dataset to act.

    Args:
        module: The rival's class of module.
        options: The rival's class of options of adaptation.
        files: Dataset and checkpoints.
        spec: Sizes that are expected; those of the dataset if None.
        device: Where the network runs.
    """

    def __init__(
        self,
        module: type[BaselineModule],
        options: type[AdaptConfig],
        files: ModelFiles,
        spec: Spec | None = None,
        device: str = "auto",
    ) -> None:
        self.device, self.options = resolve_device(device), options
        dataset = EpisodeFile(files.episodes)
        self.spec, self.rosters = dataset.require(spec or dataset.spec), dataset.rosters
        self.module = load_module(files["decision"], module, self.spec)
        self.content = f"{module.kind} {weights_hash(self.module)}"
        self.parameters = count_parameters(self.module.net)

    def team(
        self,
        seeds: Sequence[int],
        adapt: AdaptConfig | None = None,
        *,
        agent_mask: np.ndarray | None = None,
        agents: Sequence[int] | None = None,
    ) -> LockStepTeam:
        options = own_options(adapt, self.options, self.module.kind)
        how = options if isinstance(options, SamplingAdapt) else SamplingAdapt(explore="greedy")
        return self.module.team(
            seeds,
            options.episodes,
            agent_mask,
            how.explore,
            replay=how.replay,
            shared_draws=how.draws == "shared",
            redraw=how.redraw,
            states_bounds=self.knows_maximum,
            agents=agents,
            device=self.device,
        )


def count_parameters(net: torch.nn.Module) -> int:
    """Counts the numbers in a network's parameters, without parts it names `training_only`."""
    unused = getattr(net, "training_only", ())
    return sum(p.numel() for name, p in net.named_parameters() if name.split(".")[0] not in unused)
