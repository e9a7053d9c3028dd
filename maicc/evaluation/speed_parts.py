"""Speed of environments, and of a step of embedding training in each of its forms."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from maicc.config import EmbeddingConfig, OptimiserConfig
from maicc.data.team_batch import TeamBatch
from maicc.envs import BatchStep, TaskFamily, batch_env, get_family
from maicc.envs.spaces import random_actions, random_legal
from maicc.evaluation.markdown import markdown_table
from maicc.evaluation.speed import median_time, training_step
from maicc.training.fit import seeded
from maicc.training.modules import EmbeddingModule
from maicc.types import Spec

_SECONDS = 3.0
_BATCHES = (1, 16, 64)


def bench_environments(names: Sequence[str]) -> list[dict[str, Any]]:
    """Times environments under random legal actions, one by one and many in lock step.

    Args:
        names: Names of the task families.

    Returns:
        One row for each family and form.
    """
    rows = []
    with tqdm(desc="bench", unit="part", total=len(names) * (1 + len(_BATCHES))) as bar:
        for name in names:
            family = get_family(name)
            rows.append({"family": name, **_pettingzoo(family)})
            bar.update()
            for count in _BATCHES:
                rows.append({"family": name, **_lock_step(family, count)})
                bar.update()
    return rows


def _pettingzoo(family: TaskFamily) -> dict[str, Any]:
    """Times one PettingZoo environment."""
    rng = np.random.default_rng(0)
    observations: dict[str, Any] = {}
    infos: dict[str, Any] = {}

    def step() -> int:
        nonlocal observations, infos
        if not observations:
            observations, infos = env.reset(seed=int(rng.integers(2**31)))
        observations, *_, infos = env.step(random_actions(env, observations, infos, rng))
        if not env.agents:
            observations = {}
        return 1

    with closing(family.make_env(family.training_tasks[0])) as env:
        return {"form": "PettingZoo", **_rate(step)}


def _lock_step(family: TaskFamily, count: int) -> dict[str, Any]:
    """Times `count` environments in lock step."""
    tasks = [family.training_tasks[i % len(family.training)] for i in range(count)]
    rng = np.random.default_rng(0)
    batch: BatchStep | None = None

    def step() -> int:
        nonlocal batch
        if batch is None or batch.done.all():
            batch = env.reset(rng.integers(2**31, size=count).tolist())
        running = int((~batch.done).sum())
        batch = env.step(random_legal(batch.action_mask, rng))
        return running

    with closing(batch_env(family, tasks)) as env:
        return {"form": f"{count} in lock step", **_rate(step)}


def _rate(step: Callable[[], int]) -> dict[str, float]:
    """Measures the steps per second after the first one, which may compile."""
    start = time.perf_counter()
    step()
    first = time.perf_counter() - start
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < _SECONDS:
        steps += step()
    rate = steps / (time.perf_counter() - start)
    return {"steps_per_second": round(rate), "first_step_seconds": round(first, 2)}


def bench_teachers(name: str, episodes: int = 4) -> list[dict[str, Any]]:
    """Times a training step of the embedding, in each of its forms, on the largest training team.

    Random numbers stand in for the data; they cost the same.

    Args:
        name: Name of the task family.
        episodes: Number of episodes in a batch.

    Returns:
        One row for each form, over whole episodes and over windows of a quarter.
    """
    family = get_family(name)
    spec = replace(family.spec, return_min=0.0, return_max=1.0)  # those of random data
    team = 0
    for task in family.training_tasks:
        with closing(batch_env(family, [task])) as env:
            team = max(team, int(env.agent_mask.sum()))
    forms: list[tuple[str, EmbeddingConfig, int]] = []
    for encoder in ("flat", "entities") if spec.layout else ("flat",):
        for attention in ("joint", "factored"):
            config = replace(EmbeddingConfig(), encoder=encoder, attention=attention)
            for window in (0, spec.max_steps // 4):
                forms.append((f"{attention}, {encoder}", config, window))
    rows = []
    for label, config, window in tqdm(forms, desc="bench", unit="part"):
        with seeded(0):
            module = EmbeddingModule(spec, config, OptimiserConfig())
        batch = _random_batch(spec, episodes, team, window or spec.max_steps)
        step = training_step(module, partial(_loss, module, batch))
        seconds, flops = median_time(step, "cpu", "fp32")
        rows.append(
            {
                "teacher": label,
                "steps": window or spec.max_steps,
                "agents": team,
                "episodes": episodes,
                "seconds": round(seconds, 3),
                "gflop": round(flops / 1e9, 1),
            }
        )
    return rows


def _loss(module: EmbeddingModule, batch: TeamBatch) -> torch.Tensor:
    """Computes the total loss of the embedding on a batch."""
    return module.net.total(module.net.losses(batch))


def _random_batch(spec: Spec, episodes: int, team: int, steps: int) -> TeamBatch:
    """Makes a batch of episodes of `team` agents from random numbers."""
    generator = torch.Generator().manual_seed(0)
    shape = (episodes, steps)
    observations = torch.randn(*shape, team, spec.observation_size, generator=generator)
    return TeamBatch(
        observations=torch.cat([observations, observations[:, -1:]], 1),
        actions=torch.randint(spec.n_actions, (*shape, team), generator=generator),
        rewards=torch.rand(shape, generator=generator),
        done=torch.zeros(shape),
        terminated=torch.zeros(shape),
        completed=torch.zeros(shape),
        return_to_go=torch.rand(shape, generator=generator),
        step_mask=torch.ones(shape, dtype=torch.bool),
        alive=torch.ones(*shape, team, dtype=torch.bool),
        agent_mask=torch.ones(episodes, team, dtype=torch.bool),
        first=torch.zeros(episodes, dtype=torch.long),
    )


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Writes rows of equal keys as a Markdown table."""
    names = list(rows[0])
    head = [name.replace("_", " ") for name in names]
    lines = markdown_table(head, [[str(row[name]) for name in names] for row in rows])
    return "\n".join(lines) + "\n"
