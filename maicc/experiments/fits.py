"""The stages that make a method's models: its dataset, then its fits in order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from maicc.baselines import method_of
from maicc.config import RunConfig
from maicc.data.collect import collect, remove_units
from maicc.data.dataset import EpisodeFile, require_expert
from maicc.envs import get_family
from maicc.experiments.stages import Stage
from maicc.files import ModelFiles

COLLECT = "collect"  # name of the stage that makes a dataset by playing


def fit_stages(config: RunConfig, files: ModelFiles) -> list[Stage]:
    """Lists the stages from a dataset to trained models."""
    method, stages = method_of(config.method), []
    for fit in method.fits_of(config):
        if (runs := method.played_runs(fit, files)) is not None:
            stages.append(_play_stage(fit, runs, config, files))
        stages.append(_fit_stage(fit, config, files))
    return stages


def collect_stage(config: RunConfig, files: ModelFiles, workers: int | None) -> Stage:
    """Describes the stage that makes the dataset.

    Args:
        files: Paths of the dataset and the checkpoints.
        workers: Number of processes that collect; that of the configuration if None.
    """
    options = config.collect if workers is None else replace(config.collect, workers=workers)

    def make() -> None:
        collect(get_family(config.family), files.episodes, options, config.seed)

    def finish() -> None:
        remove_units(files.episodes)  # which a kill just after the dataset was written has left

    return Stage(COLLECT, files.episodes, make, finish, on_device=False)


def _play_stage(fit: str, runs: Path, config: RunConfig, files: ModelFiles) -> Stage:
    """Describes the stage that plays the runs which a fit learns from."""

    def make() -> None:
        from maicc.experiments.practice import play_practice

        play_practice(config, fit, runs, files)

    return Stage(f"{fit}: runs", runs, make)


def _fit_stage(fit: str, config: RunConfig, files: ModelFiles) -> Stage:
    """Describes the stage that trains one network of a method."""
    return Stage(fit, files[fit], lambda: fit_model(fit, config, files))


def fit_model(name: str, config: RunConfig, files: ModelFiles) -> None:
    """Trains one network of a method and leaves its checkpoint.

    Args:
        name: Name of the fit, one of the method's.

    Raises:
        UserError: the method learns the expert's actions, and the dataset does not hold them.
    """
    from maicc.training.checkpoints import load_module, take_over
    from maicc.training.fit import fit, seeded

    method = method_of(config.method)
    if method.needs_expert(config):
        require_expert(EpisodeFile(files.episodes).expert_actions())
    module, model, data = method.prepare(name, config, files)
    sections: Any = config  # the method's own class, which adds a section for each fit
    options = getattr(sections, method.reads(name)[0])
    optimiser = getattr(options, "optimiser", None) or sections.decision.optimiser
    with seeded(config.seed):
        started = module(data.spec, model, optimiser)
    if (start := method.starts_from(name, files)) is not None:
        take_over(started, load_module(start, module, data.spec), start)
    fit(
        started, data, files[name], options.steps, config.device, name, config.logger,
        config.precision,
    )  # fmt: skip
