"""The independent pieces of a benchmark, and how the work of one is done.

A trained model follows from its configuration and seed, a result from its model, variant and tasks.
Files are named by a hash of what they follow from, so that finished work is found and shared.
"""

from __future__ import annotations

import copy
import gc
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

from maicc.config import RunConfig, check_choices
from maicc.data.collect import collect
from maicc.envs import get_family
from maicc.experiments.run import HAVE_EMBEDDING, fit_decision, fit_embedding
from maicc.files import ModelFiles, locked, read_json, write_json
from maicc.types import Task, UserError

STAGES = ("collect", "embedding", "decision", "adapt")


@dataclass(frozen=True)
class Unit:
    """One variant with one seed."""

    variant: str
    config: RunConfig
    tasks: tuple[Task, ...]
    root: Path

    @property
    def files(self) -> ModelFiles:
        """Where the models are: by the content of all they follow from."""
        c = self.config.identity()
        family, seed = c["family"], c["seed"]
        data = _hash(family, get_family(family).fingerprint, seed, c["collect"])
        rival = () if c["method"] == "maicc" else (c["method"], c["baseline"], c["decision"])
        embedding = _hash(data, c["embedding"], *rival)
        decision = _hash(embedding, c["decision"])
        models = self.root / "models"
        return ModelFiles(
            models / f"{data}.h5",
            models / embedding / "embedding.ckpt",
            models / embedding / f"decision-{decision}.ckpt",
        )

    @property
    def stages(self) -> tuple[str, ...]:
        """What its method goes through."""
        return tuple(s for s in STAGES if s != "embedding" or self.config.method in HAVE_EMBEDDING)

    def target(self, stage: str) -> Path:
        """The file that a stage of this unit leaves; units may share it."""
        return self.result if stage == "adapt" else self.files[STAGES.index(stage)]

    @property
    def result(self) -> Path:
        tasks = [task.to_json() for task in self.tasks]
        adapt = self.config.adapt.identity(self.config.method)
        name = _hash(str(self.files.decision.name), adapt, tasks)
        return self.root / "results" / self.variant / f"seed{self.config.seed}-{name}.json"


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def with_overrides(config: RunConfig, overrides: Mapping[str, Any]) -> RunConfig:
    """A copy with dotted keys replaced.

    Raises:
        UserError: there is no such key, or the value is of another type.
    """
    config = copy.deepcopy(config)
    for key, value in overrides.items():
        *path, last = key.split(".")
        part: Any = config
        for name in path:
            part = getattr(part, name, None)
        if not is_dataclass(part) or not hasattr(part, last):
            raise UserError(f"a variant sets {key}, which is no option of a run")
        old = getattr(part, last)
        number = isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool)
        if type(old) is not type(value) and not number:
            raise UserError(
                f"a variant sets {key} to {value!r}, expected {type(old).__name__} like {old!r}"
            )
        setattr(part, last, float(value) if number else value)
    check_choices(config)
    return config


def run_stage(unit: Unit, stage: str, threads: int) -> None:
    """Makes the file that one stage of a unit leaves, unless it is there or another process does.

    Args:
        threads: Cores of the stage. The last digits of a sum depend on how it is split, so equal
            tables need equal numbers of threads.
    """
    with locked(unit.target(stage)):
        if not unit.target(stage).exists():
            _make(unit, stage, threads)
            gc.collect()  # a trainer and its dataset hold each other


def _make(unit: Unit, stage: str, threads: int) -> None:
    import torch

    from maicc.evaluation.adapt import adapt
    from maicc.evaluation.trained import load_models

    torch.set_num_threads(threads)
    config, files = unit.config, unit.files
    family = get_family(config.family)
    if stage == "collect":
        collect(family, files.episodes, replace(config.collect, workers=threads), config.seed)
    elif stage == "embedding":
        fit_embedding(config, files)
    elif stage == "decision":
        fit_decision(config, files)
    else:
        index = config.decision.retrieval.index
        models = load_models(config.method, files, family.spec, config.device, index)
        kept, clock = (unit.result.with_suffix(f".part.{end}") for end in ("npz", "json"))
        before = read_json(clock) if kept.exists() and clock.exists() else 0.0
        start = time.monotonic()
        try:
            tasks, seed = unit.tasks, config.seed
            result = adapt(models, family, tasks, config.adapt, seed, kept, unit.variant)
        finally:
            taken = round(before + time.monotonic() - start, 2)
            write_json(clock, taken)
        more = {"variant": unit.variant, "adapt_seconds": taken, "parameters": models.parameters}
        write_json(unit.result, {**result, **more})
        kept.unlink(missing_ok=True)
        clock.unlink()
