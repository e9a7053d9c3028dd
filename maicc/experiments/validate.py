"""Checks of a whole configuration against a family, before any long work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maicc.baselines import method_of
from maicc.config import RunConfig, check_encoder, check_logger
from maicc.data.behaviour import episode_count, labelling_policy
from maicc.data.collect import check_settings
from maicc.data.dataset import EpisodeFile, require_expert
from maicc.envs import TaskFamily
from maicc.schema import check_options
from maicc.types import UserError


def check(
    config: RunConfig,
    family: TaskFamily,
    dataset: EpisodeFile | None = None,
    *,
    collects: bool = True,
) -> None:
    """Refuses a configuration that cannot work.

    Args:
        dataset: The dataset, if it is there already.
        collects: Whether the dataset follows from the options, and is not given.

    Raises:
        UserError: names the option, and what to do.
    """
    method = method_of(config.method)
    check_options(config)
    check_logger(config.logger)
    if config.device == "cuda":
        from maicc.training.fit import resolve_device

        resolve_device(config.device)
    if collects:
        check_settings(family, config.collect)
    for fit in method.fits_of(config):
        section = method.reads(fit)[0]
        model = getattr(getattr(config, section), "model", None)
        if model is not None:
            check_model(model, f"{section}.model", family)
    stored = (count_episodes(config, family, dataset) - 1) * family.spec.n_agents
    method.check(config, stored)
    if (option := method.needs_expert(config)) and labelling_policy(family) is None:
        raise UserError(
            f"{option} learns the actions of the best behaviour policy, and {family.name} has "
            "none: give the family an expert or policies, or leave it out"
        )
    if option and dataset is not None:
        require_expert(dataset.expert_actions(), option)


def count_episodes(config: RunConfig, family: TaskFamily, dataset: EpisodeFile | None) -> int:
    """Counts the episodes of a dataset, or of the one that will be collected."""
    return episode_count(family, config.collect) if dataset is None else len(dataset)


def say_not_annealed(name: str, config: RunConfig, data: Path) -> None:
    """Tells that a method which asks for annealed levels learns from a given dataset instead."""
    print(
        f"{name}: learns from {data} as it is, not from {config.collect.anneal} annealed levels of "
        "its own"
    )


def check_model(model: Any, name: str, family: TaskFamily) -> None:
    """Refuses sizes of a transformer that do not fit, and entities in a family without a layout.

    Raises:
        UserError: names the option.
    """
    if model.width % model.heads:
        raise UserError(f"{name}.width={model.width} must be a multiple of heads={model.heads}")
    check_encoder(model.encoder, family.spec)
