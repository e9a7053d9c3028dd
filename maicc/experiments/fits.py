"""The stages that make a method's models: its dataset, then its fits in order."""

from __future__ import annotations

import shutil
from dataclasses import replace

from maicc.baselines import method_of
from maicc.config import RunConfig
from maicc.data.collect import collect
from maicc.data.dataset import EpisodeFile, require_expert
from maicc.envs import get_family
from maicc.experiments.stages import Stage
from maicc.files import ModelFiles


def model_stages(config: RunConfig, files: ModelFiles, workers: int | None = None) -> list[Stage]:
    """Lists the stages from nothing to trained models.

    Args:
        files: Where the dataset and the checkpoints belong.
        workers: Processes that collect; those of the configuration if None.
    """
    fits = method_of(config.method).fits
    stages = [collect_stage(config, files, workers)]
    return stages + [fit_stage(fit, config, files) for fit in fits]


def collect_stage(config: RunConfig, files: ModelFiles, workers: int | None) -> Stage:
    """The stage that makes the dataset."""
    options = config.collect if workers is None else replace(config.collect, workers=workers)

    def make(before: float) -> None:
        collect(get_family(config.family), files.episodes, options, config.seed)

    def finish() -> None:
        for parts in files.episodes.parent.glob(f"{files.episodes.name}.*.parts"):
            shutil.rmtree(parts)  # left by a kill just after the dataset was written

    return Stage("collect", files.episodes, make, finish)


def fit_stage(fit: str, config: RunConfig, files: ModelFiles) -> Stage:
    """The stage that trains one network of a method."""
    return Stage(fit, files[fit], lambda before: fit_model(fit, config, files))


def fit_model(name: str, config: RunConfig, files: ModelFiles) -> None:
    """Trains one network of a method and leaves its checkpoint.

    Args:
        name: The fit, one of the method's.

    Raises:
        UserError: actions are to be learned that the dataset does not know.
    """
    from maicc.training.fit import fit, seeded

    method = method_of(config.method)
    if method.needs_expert(config):
        require_expert(EpisodeFile(files.episodes).expert_actions())
    module, model, data = method.prepare(name, config, files)
    options = getattr(config, name)
    optimiser = getattr(options, "optimiser", None) or config.decision.optimiser
    with seeded(config.seed):
        untrained = module(data.spec, model, optimiser)
    fit(untrained, data, files[name], options.steps, config.device, name)
