"""Keys of the offline memory.

They are made once per checkpoint and dataset, and kept in a file whose name follows from both.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from maicc.data.dataset import EpisodeFile
from maicc.data.returns import normalised
from maicc.data.slices import Slices, slices
from maicc.files import (
    arrays_digest,
    first_line,
    hdf5_to_read,
    hdf5_to_write,
    locked,
    mapped,
    store,
)
from maicc.memory import KeyIndex, OfflineMemory
from maicc.models.batching import tensors, trimmed
from maicc.models.embedding import Embedding
from maicc.training.checkpoints import weights_hash
from maicc.types import Spec, Trajectories, UserError

GIVEN = "keys.safetensors"  # in a bundle
_SCHEMA = 2
_BATCH = 64  # trajectories per forward pass
_FIX = "remove it and it is made again"


class OfflineKeys(NamedTuple):
    """Keys of a dataset's trajectories, in their order."""

    vectors: np.ndarray  # (M, T, D) float32, unit norm; on disk, where their file can be kept
    individual_return: np.ndarray  # (M,) predicted
    index: KeyIndex  # type: ignore[assignment]  # hides tuple.index, which nobody calls here


def content_hash(embedding: Embedding, dataset: EpisodeFile, factory: str) -> str:
    """Hash of all that the keys follow from."""
    text = f"{_SCHEMA} {weights_hash(embedding)} {dataset.fingerprint} {factory}"
    return hashlib.sha256(text.encode()).hexdigest()


def offline_keys(
    embedding: Embedding,
    dataset: EpisodeFile,
    folder: str | Path,
    factory: str = "Flat",
    device: str = "cpu",
) -> OfflineKeys:
    """Reads the keys of a dataset from `folder`, or makes them and leaves them there.

    Raises:
        UserError: the keys in the folder are damaged, or another model's.
    """
    content = content_hash(embedding, dataset, factory)
    if (given := Path(folder) / GIVEN).exists():
        return _read_given(given, content, dataset, factory)
    path = Path(folder) / f"keys-{content[:16]}.h5"
    with locked(path):
        if path.exists():
            return _read(path, content)
        keys = _make(embedding.to(device), dataset, factory, device)
        try:
            with hdf5_to_write(path) as file:
                file.attrs["content"] = content
                file["vectors"] = keys.vectors  # in one piece, see `mapped`
                store(file, "individual_return", keys.individual_return)
                keys.index.save(file.create_group("index"))
                file.attrs["digest"] = arrays_digest(file)
        except OSError as error:
            print(f"{path}: the keys are not kept, and are made again next time ({error.strerror})")
        else:
            with hdf5_to_read(path, _FIX) as file:
                keys = keys._replace(vectors=mapped(file["vectors"]))
        return keys


def _make(embedding: Embedding, dataset: EpisodeFile, factory: str, device: str) -> OfflineKeys:
    """Embeds every trajectory and builds the index."""
    stored = slices(dataset.mapped(), dataset.spec.bounds).trajectories
    vectors, individual_return = embed(embedding, stored, device)
    index = KeyIndex.build(vectors, stored.step_mask, factory)
    return OfflineKeys(vectors, individual_return, index)


def export_keys(keys: OfflineKeys, content: str, out: Path) -> None:
    """Writes keys as a .safetensors file that is named `GIVEN`, to be given away.

    It has no index: FAISS's own format is not for files of strangers, and the index follows from
    the keys.

    Args:
        content: Hash of all that the keys follow from.
    """
    arrays = {"vectors": keys.vectors, "individual_return": keys.individual_return}
    save_file(arrays, out, {"content": content})


def _read_given(path: Path, content: str, dataset: EpisodeFile, factory: str) -> OfflineKeys:
    """Reads what `export_keys` has written, and builds the index."""
    played = slices(dataset.mapped(), dataset.spec.bounds).trajectories.step_mask
    try:
        with safe_open(path, "np") as file:
            if file.metadata()["content"] != content:
                raise ValueError("they are of another model or dataset")
            vectors = file.get_tensor("vectors")
            individual_return = file.get_tensor("individual_return")
        if vectors.shape[:2] != played.shape or individual_return.shape != played.shape[:1]:
            raise ValueError(f"vectors of shape {vectors.shape} for {played.shape} steps")
    except Exception as error:  # of safetensors, which has one kind for all
        raise UserError(f"{path}: not these keys ({first_line(error)}); make it anew") from None
    return OfflineKeys(vectors, individual_return, KeyIndex.build(vectors, played, factory))


def embed(
    embedding: Embedding, trajectories: Trajectories, device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """Embeds trajectories (M, T, ...), arrays, sorted by length.

    Returns:
        Keys (M, T, D) and predicted individual returns (M,).
    """
    vectors = np.zeros((*trajectories.actions.shape, embedding.config.width), np.float32)
    individual_return = np.zeros(len(trajectories.actions), np.float32)
    order = trajectories.step_mask.sum(1).argsort(kind="stable")
    with tqdm(desc="keys", unit="trajectory", total=len(order)) as bar:
        for start in range(0, len(order), _BATCH):
            items = order[start : start + _BATCH]
            batch = trimmed(tensors(trajectories.take(items)))
            keys = embedding.keys(batch.each(lambda part: part.to(device)))
            vectors[items, : batch.actions.shape[1]] = keys.vectors.cpu().numpy()
            individual_return[items] = keys.individual_reward.sum(1).cpu().numpy()
            bar.update(len(items))
    return vectors, individual_return


def _read(path: Path, content: str) -> OfflineKeys:
    with hdf5_to_read(path, _FIX) as file:
        if file.attrs["content"] != content:
            raise UserError(f"{path}: holds the keys of another model or dataset; remove it")
        digest = arrays_digest(file)
        if file.attrs.get("digest", digest) != digest:  # version 0.1 wrote none
            raise UserError(f"{path}: damaged; remove it and it is made again")
        index = KeyIndex.load(file["index"])
        return OfflineKeys(mapped(file["vectors"]), file["individual_return"][:], index)


def offline_memory(keys: OfflineKeys | None, stored: Slices, spec: Spec) -> OfflineMemory:
    """Makes the team's offline memory of a dataset and its keys; without keys it is not searched.

    Individual returns are told by the embedding that made the keys. Without it they are 0.
    """
    individual_return = np.zeros(len(stored.task), np.float32)
    if keys is not None:
        individual_return = normalised(keys.individual_return * stored.team_size, *spec.bounds)
    return OfflineMemory(
        None if keys is None else keys.index,
        stored.trajectories,
        normalised(stored.trajectories.return_to_go[:, 0], *spec.bounds),
        individual_return,
        stored.task,
        stored.episode,
        stored.agent,
    )
