"""Speed, recall and memory of look-ups among ever more keys."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tqdm import tqdm

from maicc.config import CollectConfig
from maicc.data.collect import collect
from maicc.data.dataset import EpisodeFile
from maicc.data.slices import slices
from maicc.envs import get_family
from maicc.evaluation import speed_parts
from maicc.evaluation.speed import machine, median_time, peak
from maicc.memory import KeyIndex
from maicc.memory.index import distinct, import_faiss
from maicc.models.matrix_search import MatrixSearch
from maicc.training.fit import resolve_device, seeded
from maicc.training.modules import EmbeddingModule
from maicc.training.offline_keys import offline_keys
from maicc.types import UserError

KEYS = (27_000, 270_000, 2_700_000, 10_000_000)  # in the indices that are searched
_QUERIES, _NEAREST = 96, 50
_FEWEST = 1000
_MOST_OF_A_GRAPH = 270_000  # keys; with ten times as many HNSW takes an hour to build on two cores
_PRODUCT = "Flat, as a matrix product"


def bench_search(name: str, device: str = "auto", largest: int = 2_700_000) -> dict[str, Any]:
    """Times searches among the keys of one step, in each kind of index.

    The keys are those of all steps of a dataset by an untrained embedding. If more are needed,
    points between neighbours are added.

    Args:
        name: Name of the family.
        device: Where the matrix product runs; FAISS runs on the CPU.
        largest: Number of keys in the largest index.

    Returns:
        The machine, and one row for each index, in plain JSON.

    Raises:
        UserError: there are too few keys to search among.
    """
    family, device = get_family(name), resolve_device(device)
    if largest < _FEWEST:
        raise UserError(f"--largest={largest} must be at least {_FEWEST} keys")
    counts = [*(n for n in KEYS if n < largest), largest]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "episodes.h5"
        collect(family, path, CollectConfig(), seed=0)
        dataset = EpisodeFile(path)
        with seeded(0):
            net = EmbeddingModule(dataset.spec).net
        mask = slices(dataset.mapped(), dataset.spec.bounds).trajectories.step_mask
        vectors = offline_keys(net, dataset, path.parent).vectors[mask]
    vectors = vectors[distinct(vectors)]
    rng, rows = np.random.default_rng(0), []
    peaks = {where: peak(where, "fp32") for where in {"cpu", device}}
    graphs = sum(n <= _MOST_OF_A_GRAPH for n in counts)
    with tqdm(desc="bench", unit="index", total=5 * len(counts) + graphs) as bar:
        for n in counts:
            keys = _resized(vectors, n + _QUERIES, rng)
            for row in _searches(keys[_QUERIES:], keys[:_QUERIES], device, peaks):
                rows.append(row)
                bar.update()
    return {"family": name, "machine": machine(device), "rows": rows}


def _searches(
    keys: np.ndarray, queries: np.ndarray, device: str, peaks: Mapping[str, float]
) -> Iterator[dict[str, Any]]:
    """Times each kind of index over the keys (n, D), of which the last hundredth is added later.

    Args:
        peaks: Operations per second of a matrix product, on the CPU and on the device.
    """
    n, tie = len(keys), np.zeros(len(queries))
    first, last = np.split(keys, [n - n // 100])
    lists = int(2 ** np.floor(np.log2(2.5 * n**0.5)))
    exact = None
    kinds = ["Flat", _PRODUCT, "SQfp16"]
    kinds += [f"IVF{lists},Flat;nprobe=16", f"IVF{lists},SQfp16;nprobe=16"]
    if n <= _MOST_OF_A_GRAPH:
        kinds.append("HNSW32;efSearch=128")
    for kind in kinds:
        factory = "Flat" if kind == _PRODUCT else kind
        start = time.perf_counter()
        index = KeyIndex.build(first[:, None], np.ones((len(first), 1), bool), factory)
        built = time.perf_counter()
        index.add(last[:, None], np.ones((len(last), 1), bool), len(first))
        added = time.perf_counter()
        size = import_faiss().serialize_index(index.steps[0].index).nbytes
        if kind == _PRODUCT:
            index = index.on_gpu(partial(MatrixSearch, device=device))
        seconds, _ = median_time(partial(index.search, 0, queries, _NEAREST, tie), "cpu", "fp32")
        nearest = index.search(0, queries, _NEAREST, tie).item
        exact = nearest if exact is None else exact
        found = [len(np.intersect1d(a, b)) for a, b in zip(nearest, exact, strict=True)]
        share: float | str = ""
        if factory == "Flat":  # of other indices the number of operations is not known
            of = peaks[device if kind == _PRODUCT else "cpu"]
            share = round(2.0 * keys.size * len(queries) / seconds / of, 4)
        yield {
            "keys": n,
            "index": kind,
            "ms_per_query": round(1000 * seconds / len(queries), 4),
            "recall_at_50": round(float(np.mean(found)) / _NEAREST, 4),
            "build_seconds": round(built - start, 1),
            "add_seconds": round(added - built, 3),  # for the last hundredth of the keys
            "index_mib": round(size / 2**20, 1),
            "share_of_peak": share,
        }
        del index
        gc.collect()


def _resized(vectors: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draws `n` of the keys (M, D) in random order.

    If there are fewer keys, points between near neighbours are added to them.
    """
    if n <= len(vectors):
        return vectors[rng.permutation(len(vectors))[:n]]
    mask = np.ones((len(vectors), 1), bool)
    index = KeyIndex.build(vectors[:, None], mask, "IVF1024,Flat;nprobe=8")
    neighbours = index.search(0, vectors, 11, np.zeros(len(vectors))).item
    keys = vectors
    while len(keys) < n:  # equal points count once
        one = rng.integers(len(vectors), size=n)
        other = neighbours[one, rng.integers(1, 11, n)]
        share = rng.random((n, 1), np.float32)
        between = vectors[one] * share + vectors[other] * (1 - share)
        between /= np.linalg.norm(between, axis=1, keepdims=True)
        keys = np.concatenate([keys, between])
        keys = keys[np.sort(distinct(keys))]
    return rng.permutation(keys[:n])


def markdown(result: dict[str, Any]) -> str:
    """Writes the result of `bench_search` as Markdown."""
    m = result["machine"]
    where = f"{result['family']}; {m['processor']}, {m['cores']} cores, {m['device']}."
    return f"{where}\n\n{speed_parts.markdown(result['rows'])}"
