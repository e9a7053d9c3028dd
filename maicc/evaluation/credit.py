"""Is the predicted individual return right? Measured where the environment knows each share."""

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
from maicc.training.modules import EmbeddingModule, load_module
from maicc.types import UserError

_SEED = 80


def credit(files: ModelFiles, episodes: int = 20) -> dict[str, Any]:
    """Predicted against true individual rewards on tasks the embedding was not trained on.

    Plays the dataset's behaviours on every held-out task, `episodes` each.

    Returns:
        Correlations over single steps of single agents and over their episodes, and of the sum over
        agents with the team reward; mean prediction where the agent was paid, where only a
        teammate was, and where nobody was, with the true means.

    Raises:
        UserError: the environment pays all agents alike, so nothing can be compared.
    """
    dataset = EpisodeFile(files.episodes)
    family = get_family(dataset.spec.family)
    spec = dataset.require(family.spec)
    net = load_module(files["embedding"], EmbeddingModule, spec).net
    mine = [b for b in dataset.behaviours if b.random_rate >= 0]
    if not mine:
        raise UserError(f"{files.episodes} was read from a file: there is no behaviour to play")
    played = concatenate(
        [
            play(family, task, b.random_rate, [(_SEED, i, j, e) for e in range(episodes)], b.name)
            for i, task in enumerate(family.held_out_tasks)
            for j, b in enumerate(mine)
        ]
    )
    true = played.individual_rewards  # (B, T, N)
    there = played.agent_mask[:, None]  # (B, 1, N)
    if np.ptp(np.where(there, true, true[:, :, :1]), axis=2).max() == 0:
        raise UserError(f"{family.name} pays all agents alike: there is no credit to compare with")
    batch = team_batch(played, dataset.spec.bounds)
    with torch.no_grad():
        keys = net.keys(batch.slices())
    predicted = keys.individual_reward.numpy().reshape(*true.swapaxes(1, 2).shape).swapaxes(1, 2)
    predicted = predicted * there
    steps = batch.step_mask.numpy()
    real = steps[:, :, None] & there
    team = np.broadcast_to(played.rewards[:, :, None], true.shape)[real]
    p, t = predicted[real], true[real]
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
    return round(float(np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1]), 4)
