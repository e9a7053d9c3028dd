"""Units of a benchmark: one variant with one seed each, made of stages.

A trained model follows from its configuration and seed, a result from its model, variant and tasks.
Files are named by a hash of everything they follow from, so that units find and share finished
work.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from maicc.baselines import method_of
from maicc.config import RunConfig
from maicc.data.collect import collect_share, drop_units
from maicc.data.reveal import reveal_dataset
from maicc.envs import get_family
from maicc.experiments.fits import collect_stage, fit_stages
from maicc.experiments.stages import Clock, Stage, run_stage
from maicc.files import ModelFiles, write_json
from maicc.schema import check_options, from_json
from maicc.types import Task, UserError

_ADAPT = "adapt"  # name of the stage


@dataclass(frozen=True)
class Unit:
    """One variant with one seed.

    Args:
        variant: Name of the variant.
        config: Options of the variant, with the seed.
        tasks: Tasks that teams adapt to, one per run.
        root: Folder of all units of the benchmark.
        data: Fingerprint of the dataset that was given in place of collecting; empty if none was.
            It is in its place before the unit runs.
        hidden: Unit with the dataset of which this unit's is made, by telling what its tasks hide.
            None if the unit collects one, or was given one.
    """

    variant: str
    config: RunConfig
    tasks: tuple[Task, ...]
    root: Path
    data: str = ""
    hidden: Unit | None = None

    @cached_property
    def files(self) -> ModelFiles:
        """Paths of the models, named by the content of all they follow from."""
        options = self.config.identity()
        family = options["family"], get_family(self.config.family).fingerprint
        precision = [p for p in [options["precision"]] if p != "fp32"]
        follows = _hash(*family, options["seed"], self.data or options["collect"])
        models, checkpoints = self.root / "models", {}
        # one that was given serves every seed
        episodes = models / f"{_hash(*family, self.data) if self.data else follows}.h5"
        method = method_of(self.config.method)
        for fit in method.fits_of(self.config):
            read = [_section(options, name) for name in method.reads(fit)]
            follows = _hash(follows, method.name, fit, read, *precision)
            checkpoints[fit] = models / follows / f"{fit}.ckpt"
        return ModelFiles(episodes, checkpoints)

    @cached_property
    def result(self) -> Path:
        """Path of the result."""
        tasks = [task.to_json() for task in self.tasks]
        acting = method_of(self.config.method).fits_of(self.config)[-1]
        name = _hash(self.files[acting].parent.name, self.config.adapt.identity(), tasks)
        return self.root / "results" / self.variant / f"seed{self.config.seed}-{name}.json"

    def stages(self, threads: int = 1) -> list[Stage]:
        """Lists the unit's stages in order; units may share stages."""
        adapt = Stage(_ADAPT, self.result, self._adapt, self._clean_up)
        return [*self._dataset(threads), *fit_stages(self.config, self.files), adapt]

    def _dataset(self, threads: int) -> list[Stage]:
        """Lists the stages that make the dataset."""
        if self.hidden is not None:
            source, target = self.hidden.files.episodes, self.files.episodes
            family = get_family(self.config.family)

            def tell() -> None:
                reveal_dataset(source, family, target)

            stage = Stage("tell", target, tell, on_device=False)
            return [*self.hidden._dataset(threads), stage]
        return [] if self.data else [collect_stage(self.config, self.files, workers=threads)]

    @property
    def collecting(self) -> Unit:
        """The unit whose dataset is collected for this one, which may be itself."""
        return self.hidden or self

    def play_share(self, number: int, of: int) -> None:
        """Plays a share of the episodes that the stage `collect` joins to a dataset.

        Args:
            number: Number of the share, from 0.
            of: Number of shares.
        """
        config, path = self.config, self.files.episodes
        family = get_family(config.family)
        collect_share(family, path, config.collect, config.seed, number, of)

    def drop_shares(self) -> None:
        """Drops the episodes that were played for a dataset which is refused."""
        config, path = self.config, self.files.episodes
        drop_units(get_family(config.family), path, config.collect, config.seed)

    def run(self, stage: Stage, threads: int) -> None:
        """Makes one stage's file, unless it exists or another process makes it.

        Args:
            threads: Cores of the stage. The last digits of a sum depend on how it is split, so
                equal tables need equal numbers of threads.
        """
        import torch

        torch.set_num_threads(threads)
        run_stage(stage, Clock(self._clock(stage.target)), quiet=True)

    def _adapt(self) -> None:
        from maicc.evaluation.adapt import adapt

        config, family = self.config, get_family(self.config.family)
        before = Clock(self._clock(self.result)).seconds.get(_ADAPT, 0.0)  # what was interrupted
        models = method_of(config.method).load(config, self.files, family.spec, config.device)
        start = time.monotonic()
        result = adapt(
            models, family, self.tasks, config.adapt, config.seed, self._state_file, self.variant
        )
        unit_fields = {
            "variant": self.variant,
            "adapt_seconds": round(before + time.monotonic() - start, 2),
            "parameters": models.parameters,
        }
        write_json(self.result, {**result, **unit_fields})

    def _clean_up(self) -> None:
        self._state_file.unlink(missing_ok=True)

    @property
    def _state_file(self) -> Path:
        """Path of the state of an interrupted adaptation."""
        return self.result.with_suffix(".part.npz")

    @staticmethod
    def _clock(target: Path) -> Path:
        """Names the file of a stage's clock."""
        return target.with_name(f".{target.name}.seconds.json")


def _section(options: Any, name: str) -> Any:
    """Picks the options with a dotted name."""
    for part in name.split("."):
        options = options[part]
    return options


def _hash(*parts: Any) -> str:
    """Hashes plain values to 12 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def with_overrides(config: RunConfig, overrides: Mapping[str, Any]) -> RunConfig:
    """Copies a configuration with dotted keys replaced.

    If the method is replaced, the new method takes over every option that it has too.

    Raises:
        UserError: there is no such key, or the value is of another type.
    """
    method = method_of(overrides.get("method", config.method))
    if method.name != config.method:
        config = from_json(method.config, method.adopt(asdict(config)), "variant")
    config = copy.deepcopy(config)
    for key, value in overrides.items():
        *path, last = key.split(".")
        part: Any = config
        for name in path:
            part = getattr(part, name, None)
        if not is_dataclass(part) or not hasattr(part, last):
            raise UserError(f"{key} is no option of method {method.name}")
        old = getattr(part, last)
        number = isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool)
        if type(old) is not type(value) and not number:
            raise UserError(f"{key}={value!r}, expected {type(old).__name__} like {old!r}")
        setattr(part, last, float(value) if number else value)
    check_options(config)
    return config
