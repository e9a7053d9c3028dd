"""Comparison of predicted with true individual rewards, where the environment knows these."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from maicc.data.behaviour import play
from maicc.data.dataset import EpisodeFile
from maicc.data.episodes import concatenate
from maicc.data.team_batch import team_batch
from maicc.envs import get_family
from maicc.files import ModelFiles
from maicc.streams import Stream
from maicc.training.checkpoints import load_module
from maicc.training.modules import EmbeddingModule
from maicc.types import UserError


def credit(files: ModelFiles, episodes: int = 20) -> dict[str, Any]:
    """Compares predicted with true individual rewards on tasks that were not trained on.

    Every behaviour of the dataset plays `episodes` episodes of every held-out task.

    Returns:
        Three correlations: over single steps of single agents, over the sums of an agent's episode,
        and of the sum over agents with the team reward. `mean` holds the mean prediction and the
        true mean over steps in which the agent was paid, only a teammate was, or nobody was.

    Raises:
        UserError: there is no embedding, the environment pays all agents alike, or the dataset was
            read from a file.
    """
    dataset = EpisodeFile(files.episodes)
    family = get_family(dataset.spec.family)
    spec = dataset.require(family.spec)
    if not files["embedding"].exists():
        raise UserError(
            f"{files['embedding']}: no such checkpoint; a run trains an embedding if it retrieves, "
            "with decision.model.k above 0"
        )
    module = load_module(files["embedding"], EmbeddingModule, spec)
    behaviours = [b for b in dataset.behaviours if b.random_rate >= 0]
    if not behaviours:
        raise UserError(f"{files.episodes} was read from a file: there is no behaviour to play")
    played = concatenate(
        [
            play(
                family,
                task,
                b.random_rate,
                [(Stream.CREDIT, i, j, e) for e in range(episodes)],
                b.name,
            )
            for i, task in enumerate(family.held_out_tasks)
            for j, b in enumerate(behaviours)
        ]
    )
    true = played.individual_rewards  # (B, T, N)
    exists = played.agent_mask[:, None]  # (B, 1, N)
    if np.ptp(np.where(exists, true, true[:, :, :1]), axis=2).max() == 0:
        raise UserError(f"{family.name} pays all agents alike: there is no credit to compare with")
    batch = team_batch(played, dataset.spec.bounds)
    with torch.no_grad():
        keys = module.net.keys(batch.slices())
    predicted = keys.individual_reward.numpy().reshape(*true.swapaxes(1, 2).shape).swapaxes(1, 2)
    predicted = predicted * exists
    steps = batch.step_mask.numpy()
    counts = steps[:, :, None] & exists  # (B, T, N)
    team = np.broadcast_to(played.rewards[:, :, None], true.shape)[counts]
    p, t = predicted[counts], true[counts]
    groups = {
        "paid": t != 0,
        "teammate paid": (t == 0) & (team != 0),
        "nobody paid": team == 0,
    }
    whole = (predicted.sum(1), true.sum(1))
    return {
        "step_correlation": _correlation(p, t),
        "episode_correlation": _correlation(*(x[played.agent_mask] for x in whole)),
        "team_correlation": _correlation(predicted.sum(2)[steps], played.rewards[steps]),
        "mean": {
            name: {"predicted": round(float(p[m].mean()), 4), "true": round(float(t[m].mean()), 4)}
            for name, m in groups.items()
            if m.any()
        },
    }


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of all numbers of two arrays of one shape."""
    return round(float(np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1]), 4)
