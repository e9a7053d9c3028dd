"""Estimate of the memory that a run takes, told before any long work."""

from __future__ import annotations

import sys
from typing import Any, cast

from maicc.baselines import method_of
from maicc.config import RunConfig, TransformerConfig
from maicc.data.dataset import EpisodeFile
from maicc.envs import TaskFamily
from maicc.experiments.validate import count_episodes
from maicc.models.observations import HIDDEN, WAVES
from maicc.types import Spec

_GIB = 2**30
_PROGRAM, _JAX = 0.3 * _GIB, 0.4 * _GIB  # Python with its libraries; JAX with compiled games
_STORED = 60  # bytes of one agent's step in a dataset while it is read, without what stays on disk
_KEPT = 17 * 4  # bytes that training keeps of a token, for each layer and unit of width


def memory_needed(config: RunConfig, family: TaskFamily, dataset: EpisodeFile | None = None) -> str:
    """Estimates how much memory a run takes, and names options that bound it.

    Episodes count as if all were of the largest length, and a rival's step of training as if it
    were MAICC's. What stays on disk while it is used is told apart.

    Args:
        dataset: The dataset, if it is there already.
    """
    spec, memory = family.spec, getattr(config.adapt, "memory", None)
    key = 4 * method_of(config.method).key_width(config)  # bytes of a step
    episodes = count_episodes(config, family, dataset)
    steps = episodes * spec.n_agents * spec.max_steps
    # keys while they are made, and their index
    offline = steps * (_STORED + 2 * key)
    on_disk = steps * (4 * spec.observation_size + spec.n_actions)
    program = _PROGRAM + _JAX * ("jax" in sys.modules)
    training, of_training = _training(config, spec)
    teams = _teams(config, spec, key)
    parts = [
        (program, "for the program"),
        (
            offline,
            f"for the dataset{' and its keys' if key else ''} (collect.episodes"
            f"{', decision.retrieval.index' if memory and key else ''})",
        ),
        (training, f"for a step of training ({of_training})"),
        (
            teams,
            "for what the teams live through (adapt.runs, "
            f"{'adapt.memory.max_episodes' if memory else 'adapt.episodes'})",
        ),
    ]
    if cache := _cache(config, spec, key):
        parts.append((cache, "of cache (adapt.memory.cache_gib)"))
    if traces := _traces(config, spec):
        parts.append((traces, "for traces (adapt.traces)"))
    # a fit and an adaptation are not at work at the same time
    total = program + offline + max(training, teams + cache + traces)
    listed = ", ".join(f"{part / _GIB:.1f} {what}" for part, what in parts)
    return (
        f"memory: about {total / _GIB:.1f} GiB: {listed}. Observations and action masks, up to "
        f"{on_disk / _GIB:.1f} GiB, stay on disk"
    )


def _training(config: RunConfig, spec: Spec) -> tuple[float, str]:
    """Bytes of the largest step of training, and the option that bounds it."""
    method, whole = method_of(config.method), cast(Any, config)
    steps = [(0.0, "decision.batch_size")]
    for fit in method.fits_of(config):
        section = method.reads(fit)[0]
        options: Any = getattr(config, section)
        if section == "embedding" and hasattr(options, "window"):
            bounds = "embedding.window, embedding.model.attention=factored"
            steps.append((_embedding_step(options, spec), bounds))
        else:
            model = getattr(options, "model", None) or whole.decision.model
            queries: int = getattr(options, "batch_size", whole.decision.batch_size)
            steps.append((_policy_step(queries, options, model, spec), "decision.batch_size"))
    return max(steps)


def _embedding_step(fit: Any, spec: Spec) -> float:
    """Bytes that a step of the embedding's training keeps."""
    model = fit.model
    T, N = min(fit.window or spec.max_steps, spec.max_steps), spec.n_agents
    team = T * (2 * N + 1 + model.return_to_go)  # tokens of an episode
    episodes = min(fit.batch_size, max(fit.tokens // team, 1)) if fit.tokens else fit.batch_size
    student, teacher = 3 * T * N, team * model.teacher
    tokens = episodes * (student + teacher) * model.layers * model.width * _KEPT
    attention = 0
    if model.teacher and model.attention == "joint":
        # which tokens see which, as truth values and as numbers; with dropout each head's weights
        each = 5 + 8 * model.layers * model.heads * (model.dropout > 0)
        attention = episodes * team**2 * each
    return tokens + attention + episodes * T * N * _observation(model, spec)


def _policy_step(queries: int, fit: Any, model: Any, spec: Spec) -> float:
    """Bytes that a step of training keeps of queries, of what they retrieved and of records."""
    T, width = spec.max_steps, model.layers * model.width
    steps = queries * T * (1 + getattr(model, "k", 0))
    record = getattr(model, "record", 0)
    sets = max(queries // getattr(fit, "share", 1), 1)
    remembered = min(record * T, getattr(model, "record_steps", 0)) // 2  # half on average
    keys_and_values = 4 * queries * remembered * 4 * width  # of the record, for each query
    tokens = (steps * _per_step(model) + sets * remembered) * width * _KEPT
    return tokens + keys_and_values + (steps + sets * remembered) * _observation(model, spec)


def _observation(model: TransformerConfig, spec: Spec) -> float:
    """Bytes that training keeps of the encoding of one observation."""
    if model.encoder != "entities" or spec.layout is None:
        read = spec.observation_size * (1 + 4 * WAVES * (model.encoder == "fourier"))
        return 4 * (read + 4 * HIDDEN + model.width)
    entities = 1 + spec.layout.allies[1] + spec.layout.enemies[1]
    return entities * HIDDEN * _KEPT


def _teams(config: RunConfig, spec: Spec, key: int) -> float:
    """Bytes of what the teams of an adaptation remember, and of what they read in an episode.

    Contexts, the running trajectory and its prefix for the student have places for the longest.
    """
    rows, episodes = _lived(config, spec)
    each = spec.max_steps * (4 * spec.observation_size + 29 + key)
    model = cast(Any, config).decision.model
    read = min(getattr(model, "record", 0) * spec.max_steps, getattr(model, "record_steps", 0))
    looked_up = model.k if getattr(model, "context", None) == "independent" else 0
    kept = (read + (1 + looked_up) * spec.max_steps * _per_step(model)) * _keys_and_values(model)
    if looked_up:
        student = cast(Any, config).embedding.model
        kept += (3 + student.return_to_go) * spec.max_steps * _keys_and_values(student)
    return rows * (episodes * each + kept)


def _cache(config: RunConfig, spec: Spec, key: int) -> float:
    """Bytes of keys and values that a team keeps, of what it looked up and of own episodes."""
    memory, model = getattr(config.adapt, "memory", None), cast(Any, config).decision.model
    if memory is None:
        return 0.0
    rows, episodes = _lived(config, spec)
    own = rows * episodes * spec.max_steps * _keys_and_values(model) * (model.record > 0)
    most = memory.cache_gib * _GIB
    return (most if key else 0.0) + min(own, most)


def _traces(config: RunConfig, spec: Spec) -> float:
    """Bytes of the traces of an adaptation, see `maicc.evaluation.traces`."""
    adapt = config.adapt
    agents_steps = adapt.traces * adapt.episodes * spec.max_steps * spec.n_agents
    return agents_steps * (4 * spec.observation_size + 5 * spec.n_actions + 8)


def _lived(config: RunConfig, spec: Spec) -> tuple[int, int]:
    """Counts the agents of the larger adaptation, and the episodes that each remembers."""
    adapt = config.adapt
    capacity = getattr(getattr(adapt, "memory", None), "max_episodes", 0)  # 0 is without limit
    episodes = min(capacity or adapt.episodes, adapt.episodes)
    return max(adapt.runs, adapt.training_runs) * spec.n_agents, episodes


def _per_step(model: TransformerConfig) -> int:
    """Tokens of a step of the running trajectory, and of what was looked up."""
    return 1 if getattr(model, "tokens", "fused") == "fused" else 4


def _keys_and_values(model: TransformerConfig) -> int:
    """Bytes of the keys and values of a token."""
    return 8 * model.layers * model.width
