"""Descriptions of the rivals; each has a file of its own, with its networks and its team."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from math import ceil
from typing import TYPE_CHECKING, Any, ClassVar

from maicc.baselines.method import HIDDEN_PART, WHOSE_EPISODES, Method, Trained
from maicc.baselines.options import ADRun, ATRun, DPTRun, HiSSDRun, RADTRun, RivalRun
from maicc.config import PolicyConfig, RunConfig
from maicc.data.behaviour import ANNEALED, informed, plays_at_levels
from maicc.envs import get_family
from maicc.files import ModelFiles
from maicc.types import Spec

if TYPE_CHECKING:
    from maicc.baselines.base import BaselineModule
    from maicc.data.dataset import EpisodeFile
    from maicc.training.family_data import FamilyData
    from maicc.training.modules import MaiccModule

ANNEAL = 25  # levels of a learner's history


@dataclass(frozen=True)
class Rival(Method):
    """A method with one module that trains it and makes its team.

    Args:
        module: Where the module is, `module:class`.
        signals: What training tells the method as published, see `told`.
        expert: Whether the actions of the best behaviour policy are learned.
    """

    name: str
    config: type[RunConfig]
    module: str
    signals: str
    adapts: bool = True
    expert: bool = False

    def adopt(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Turns options into this method's; a team shares random numbers where MAICC's does."""
        adopted = super().adopt(options)
        memory = options.get("adapt", {}).get("memory", {})
        numbers = {name: memory[name] for name in ("draws", "redraw") if name in memory}
        if numbers:
            adopted["adapt"] = {**adopted["adapt"], **numbers}
        return adopted

    def load_module_type(self) -> type[BaselineModule]:
        """Imports the module's class, and torch with it."""
        module_name, _, name = self.module.partition(":")
        module_type: type[BaselineModule] = getattr(import_module(module_name), name)
        return module_type

    def prepare(
        self, fit: str, config: RivalRun, files: ModelFiles
    ) -> tuple[type[MaiccModule], Any, FamilyData]:
        module = self.load_module_type()
        return module, config.decision.model, module.data(config, files)

    def load(self, config: RivalRun, files: ModelFiles, spec: Spec | None, device: str) -> Trained:
        from maicc.baselines.trained import TrainedRival

        return TrainedRival(self.load_module_type(), type(config.adapt), files, spec, device)

    def told(self, config: RivalRun, dataset: EpisodeFile) -> str:
        family, signals = get_family(config.family), [self.signals_of(dataset)]
        if getattr(config.decision, "lived", False) and informed(family, dataset.behaviours).any():
            signals.append(WHOSE_EPISODES)
        if getattr(config.decision.model, "hidden_weight", 0.0) and family.reveal is not None:
            signals.append(HIDDEN_PART)
        return "; ".join(signals)

    def signals_of(self, dataset: EpisodeFile) -> str:
        """Names what training on a dataset tells the method as published."""
        return self.signals

    def needs_expert(self, config: RivalRun) -> str | None:
        return f"method={self.name}" if self.expert else None


@dataclass(frozen=True)
class Retrieving(Rival):
    """A rival whose retriever, a MADT, is trained first."""

    fits: tuple[str, ...] = ("retriever", "decision")
    renamed: ClassVar[dict[str, str]] = {
        "embedding.ckpt": "retriever.ckpt",
        "embedding.part.ckpt": "retriever.part.ckpt",
    }

    def prepare(
        self, fit: str, config: RivalRun, files: ModelFiles
    ) -> tuple[type[MaiccModule], Any, FamilyData]:
        if fit == "decision":
            return super().prepare(fit, config, files)
        from maicc.baselines.madt import MADTModule

        sizes = {f.name: getattr(config.decision.model, f.name) for f in fields(PolicyConfig)}
        return MADTModule, PolicyConfig(**sizes), MADTModule.data(config, files)

    def adopt(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Turns options into this method's; the retriever gets the steps of MAICC's embedding."""
        adopted = super().adopt(options)
        if "embedding" in options:
            adopted["retriever"] = {"steps": options["embedding"]["steps"]}
        return adopted

    def reads(self, fit: str) -> tuple[str, ...]:
        return ("retriever", "decision") if fit == "retriever" else (fit,)

    def key_width(self, config: RADTRun) -> int:
        return config.decision.model.width

    def trained_on(self, config: RADTRun) -> str:
        return f"{config.retriever.steps} + {super().trained_on(config)}"


@dataclass(frozen=True)
class Windowed(Rival):
    """A rival that is trained on windows of episodes, like MAICC's embedding."""

    def adopt(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Turns options into this method's; the window is that of MAICC's embedding."""
        adopted = super().adopt(options)
        if "embedding" in options:
            window = options["embedding"]["window"]
            adopted["decision"] = {**adopted["decision"], "window": window}
        return adopted


@dataclass(frozen=True)
class Distilling(Rival):
    """A rival that reads a learner's history, which a finely annealed expert stands in for."""

    def adopt(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Turns options into this method's; the expert is annealed, if the family has one."""
        adopted, collect = super().adopt(options), options["collect"]
        if not collect.get("anneal") and plays_at_levels(get_family(options["family"])):
            adopted["collect"] = {**collect, "anneal": ANNEAL}
        return adopted

    def signals_of(self, dataset: EpisodeFile) -> str:
        if any(behaviour.name == ANNEALED for behaviour in dataset.behaviours):
            return "tasks; a history of finely annealed noise"
        return self.signals

    def trained_on(self, config: ADRun) -> str:
        fit = config.decision
        row = fit.model.row(get_family(config.family).max_steps)
        return f"{fit.steps} x {ceil(fit.batch_size / row) * row} trajectories"


RIVALS: tuple[Method, ...] = (
    Rival("madt", RivalRun, "maicc.baselines.madt:MADTModule", "returns", adapts=False),
    Rival("at", ATRun, "maicc.baselines.at:ATModule", "returns; tasks"),
    Retrieving("radt", RADTRun, "maicc.baselines.radt:RADTModule", "returns; tasks"),
    Distilling(
        "ad",
        ADRun,
        "maicc.baselines.ad:ADModule",
        "tasks; the level of each behaviour policy",
    ),
    Rival(
        "dpt",
        DPTRun,
        "maicc.baselines.dpt:DPTModule",
        "tasks; the best behaviour policy's actions",
        expert=True,
    ),
    Windowed(
        "hissd",
        HiSSDRun,
        "maicc.baselines.hissd:HiSSDModule",
        "tasks; what the whole team observes next",
        adapts=False,
    ),
)
