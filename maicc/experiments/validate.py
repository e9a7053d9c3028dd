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
from maicc.types import Spec, UserError


def check(config: RunConfig, family: TaskFamily, dataset: EpisodeFile | None = None) -> None:
    """Refuses a configuration that cannot work.

    Args:
        dataset: The dataset, if it is there already.

    Raises:
        UserError: names the option, and what to do.
    """
    method = method_of(config.method)
    check_options(config)
    check_logger(config.logger)
    if config.device == "cuda":
        from maicc.training.fit import resolve_device

        resolve_device(config.device)
    check_settings(family, config.collect)
    for fit in method.fits_of(config):
        section = method.reads(fit)[0]
        model = getattr(getattr(config, section), "model", None)
        if model is not None:
            check_model(model, f"{section}.model", family)
    stored = (_episodes(config, family, dataset) - 1) * family.spec.n_agents
    method.check(config, stored)
    if (option := method.needs_expert(config)) and labelling_policy(family) is None:
        raise UserError(
            f"{option} learns the actions of the best behaviour policy, and {family.name} has "
            "none: give the family an expert or policies, or leave it out"
        )
    if option and dataset is not None:
        require_expert(dataset.expert_actions())


def _episodes(config: RunConfig, family: TaskFamily, dataset: EpisodeFile | None) -> int:
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


def memory_needed(config: RunConfig, family: TaskFamily, dataset: EpisodeFile | None = None) -> str:
    """Estimates how much memory the dataset and the teams take, and names options that bound it.

    Args:
        dataset: The dataset, if it is there already.
    """
    spec, adapt, memory = family.spec, config.adapt, getattr(config.adapt, "memory", None)
    # bytes: 29 for a step besides its observation
    trajectory = spec.max_steps * (4 * spec.observation_size + 29)
    key = spec.max_steps * 4 * method_of(config.method).key_width(config)
    # episodes and their slices; keys, their index, and their file while it is written
    slices = _episodes(config, family, dataset) * spec.n_agents
    offline = slices * (2 * trajectory + 3 * key)
    capacity = memory.max_episodes if memory else 0  # 0 is without limit
    episodes = min(capacity or adapt.episodes, adapt.episodes)
    online = max(adapt.runs, adapt.training_runs) * spec.n_agents * episodes * (trajectory + key)
    attention = _teachers_attention(config, spec)
    teacher = (
        f", {attention / 2**30:.1f} GiB for the teacher's attention (embedding.window, "
        "embedding.model.attention=factored)"
    ) * (attention > 0)
    bounds = "adapt.runs, " + ("adapt.memory.max_episodes" if memory else "adapt.episodes")
    cache = f", {memory.cache_gib:g} GiB of cache" if memory and key else ""
    return (
        f"memory: up to {offline / 2**30:.1f} GiB for the dataset{' and its keys' if key else ''} "
        f"(collect.episodes{', decision.retrieval.index' if memory and key else ''}), "
        f"{online / 2**30:.1f} GiB for what the teams live through ({bounds}){cache}"
        f"{teacher}"
    )


def _teachers_attention(config: RunConfig, spec: Spec) -> int:
    """Bytes of attention in a step of the embedding's training, which grow with tokens squared."""
    fit = getattr(config, "embedding", None)
    trained = "embedding" in method_of(config.method).fits_of(config)
    if fit is None or not trained or not fit.model.teacher or fit.model.attention == "factored":
        return 0
    steps = min(fit.window or spec.max_steps, spec.max_steps)
    tokens = steps * (2 * spec.n_agents + 1 + fit.model.return_to_go)
    episodes = min(fit.batch_size, max(fit.tokens // tokens, 1)) if fit.tokens else fit.batch_size
    # which tokens see which, as truth values and as numbers; with dropout every head's weights too
    each = 5 + 8 * fit.model.layers * fit.model.heads * (fit.model.dropout > 0)
    return episodes * tokens**2 * each
