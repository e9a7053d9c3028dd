"""Files in layouts of others, made here by hand from episodes of our own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from maicc.data.episodes import EpisodeBatch


def authors_arrays(episodes: EpisodeBatch) -> dict[str, np.ndarray]:
    """The authors' arrays: T+1 steps throughout, time limits stored as terminations."""
    E, T = episodes.rewards.shape
    arrays = {
        "actions": np.zeros((E, T + 1, 3, 1), np.int64),
        "avail_actions": episodes.action_mask.astype(np.int64),
        "obs": episodes.observations,
        "reward": np.zeros((E, T + 1, 1), np.float32),
        "terminated": np.zeros((E, T + 1, 1), np.uint8),
        "filled": (np.arange(T + 1) <= episodes.length[:, None])[..., None].astype(np.int64),
    }
    arrays["actions"][:, :T, :, 0] = episodes.actions
    arrays["reward"][:, :T, 0] = episodes.rewards
    arrays["terminated"][np.arange(E), episodes.length - 1] = 1
    return arrays


def write_h5(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Writes arrays to an HDF5 file."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path
