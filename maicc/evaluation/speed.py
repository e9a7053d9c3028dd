"""Speed of every part, beside the machine's own peak measured in the same run.

The models are untrained, as training does not change what a computation costs.
"""

from __future__ import annotations

import gc
import platform
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from maicc.config import (
    CollectConfig,
    DecisionConfig,
    EmbeddingConfig,
    MemoryConfig,
    OptimiserConfig,
)
from maicc.data.collect import collect
from maicc.data.dataset import EpisodeFile
from maicc.data.slices import slices
from maicc.envs import TaskFamily, batch_env, get_family
from maicc.evaluation.adapt import play_episode
from maicc.evaluation.markdown import markdown_table
from maicc.memory import KeyIndex
from maicc.memory.index import distinct
from maicc.teams.team import Team
from maicc.training.episode_data import EpisodeData
from maicc.training.family_data import FamilyData
from maicc.training.fit import resolve_device, seeded
from maicc.training.modules import DecisionModule, EmbeddingModule, MaiccModule
from maicc.training.offline_keys import offline_keys, offline_memory
from maicc.training.retrieval_data import RetrievalData
from maicc.types import Trajectories

SIZES = {
    "fast": (EmbeddingConfig(), DecisionConfig(k=3, record=0)),
    "paper": (
        EmbeddingConfig(layers=8, heads=8),
        DecisionConfig(layers=8, heads=8, tokens="four", context="concatenated", k=3, record=0),
    ),
}
_SECONDS = 4.0  # least time for each measurement
_PEAK_SIZES = {"cuda": 8192, "cpu": 2048}  # rows of the square matrices
_EPISODES, _QUERIES, _RUNS = 32, 96, 50
_TRAJECTORIES = 1536  # whose keys are made in one call
KEYS = (27_000, 270_000, 2_700_000)  # in the indices that are searched


def bench(name: str, device: str = "auto", largest: int = 2_700_000) -> dict[str, Any]:
    """Times all parts on a task family.

    Args:
        name: Name of the family.
        device: `cpu`, `cuda`, or `auto` for the GPU where there is one.
        largest: Number of keys in the largest index that is searched.

    Returns:
        The machine, and one row for each part, in plain JSON.
    """
    family, device = get_family(name), resolve_device(device)
    rows: list[dict[str, Any]] = []
    peak = {p: _peak(device, p) for p in ("fp32", "bf16")}
    with (
        TemporaryDirectory() as folder,
        tqdm(desc="bench", unit="part", total=2 * 7 + 2 * sum(n <= largest for n in KEYS)) as bar,
    ):
        path = Path(folder) / "episodes.h5"
        collect(family, path, CollectConfig(), seed=0)
        for size, (embedding, decision) in SIZES.items():
            for row in _models(family, path, size, embedding, decision, device, peak):
                rows.append(row)
                bar.update()
        rows += _retrieval(path, largest, bar, peak["fp32"])
    return {
        "family": name,
        "machine": {
            "processor": _processor(),
            "cores": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "torch": torch.__version__,
            "peak_gflops": {p: round(value / 1e9, 1) for p, value in peak.items()},
        },
        "rows": rows,
        "peak_memory_gib": _peak_memory(),
    }


def _peak_memory() -> float | None:
    """GiB that this process has taken at most; None on Windows, which does not say."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 2)


def _models(
    family: TaskFamily,
    path: Path,
    size: str,
    embedding_config: EmbeddingConfig,
    decision_config: DecisionConfig,
    device: str,
    peak: dict[str, float],
) -> Iterator[dict[str, Any]]:
    """Times the models of one size: their training steps, keys and adaptation."""
    spec = EpisodeFile(path).spec
    with seeded(0):
        embedding = EmbeddingModule(spec, embedding_config, OptimiserConfig())
        decision = DecisionModule(spec, decision_config, OptimiserConfig())
    embedding, decision = embedding.to(device), decision.to(device)
    data = EpisodeData(family.name, str(path), _EPISODES)
    data.setup("fit")
    batch = _first_batch(data, device)

    dataset = EpisodeFile(path)
    keys = offline_keys(embedding.net, dataset, path.parent, device=device)
    stored = slices(dataset.mapped(), spec.bounds)
    retrieval = RetrievalData(family.name, str(path), k=decision_config.k, batch_size=_QUERIES)
    retrieval.use(keys, stored)
    queries = _first_batch(retrieval, device)
    trajectories = Trajectories(
        *(torch.from_numpy(p[:_TRAJECTORIES]).to(device) for p in stored.trajectories)
    )

    def embedding_loss() -> torch.Tensor:
        return embedding.net.total(embedding.net.losses(batch))

    def decision_loss() -> torch.Tensor:
        return decision.net.loss(queries)[0]

    # name, maker of the function to time, and the counts of one call that give its rates
    parts: list[tuple[str, Callable[[], Callable[[], object]], dict[str, float]]] = [
        ("embedding step", lambda: training_step(embedding, embedding_loss),
         {"episodes_per_second": _EPISODES}),
        ("keys", lambda: partial(embedding.net.keys, trajectories),
         {"episodes_per_second": _TRAJECTORIES / spec.n_agents}),
        ("decision step", lambda: training_step(decision, decision_loss),
         {"queries_per_second": _QUERIES,
          "actions_per_second": int(queries.current.step_mask.sum())}),
    ]  # fmt: skip
    for precision in ("fp32", "bf16"):
        for part, make, counts in parts:
            seconds, flops = median_time(make(), device, precision)
            yield {
                "part": part, "size": size, "precision": precision,
                "seconds": round(seconds, 5),
                "share_of_peak": round(flops / seconds / peak[precision], 4),
                **{rate: round(count / seconds, 1) for rate, count in counts.items()},
            }  # fmt: skip

    memory = offline_memory(keys, stored, spec)
    yield _adaptation(family, size, embedding, decision, memory, device, peak["fp32"])
    gc.collect()


def _adaptation(
    family: TaskFamily,
    size: str,
    embedding: Any,
    decision: Any,
    memory: Any,
    device: str,
    peak: float,
) -> dict[str, Any]:
    """Times the adaptation of `_RUNS` teams in lock step."""
    tasks = family.draw_tasks(_RUNS, 0)
    env = batch_env(family, tasks)
    team = Team(
        embedding.spec, embedding.net, decision.net, memory, MemoryConfig(), list(range(_RUNS)),
        device=device,
    )  # fmt: skip
    steps, start, episodes = 0, time.perf_counter(), 0
    while episodes < 5 or time.perf_counter() - start < 3 * _SECONDS:
        if episodes == 2:  # the first two episodes fill caches and do not count
            start, steps = time.perf_counter(), 0
        play_episode(team, env, [1000 * episodes + i for i in range(_RUNS)])
        lengths = team.memory.online.trajectories.step_mask[:, episodes].sum(1)
        steps += int(lengths.max())
        episodes += 1
    seconds = time.perf_counter() - start
    cache_bytes = team.cache.bytes()
    with FlopCounterMode(display=False) as counter:  # not timed: counting slows
        play_episode(team, env, [1000 * episodes + i for i in range(_RUNS)])
    per_episode = seconds / (episodes - 2)
    return {
        "part": "adaptation", "size": size, "precision": "fp32",
        "seconds": round(per_episode, 4),
        "share_of_peak": round(counter.get_total_flops() / per_episode / peak, 4),
        "run_episodes_per_second": round(_RUNS / per_episode, 1),
        "ms_per_team_decision": round(1000 * seconds / steps / _RUNS, 3),
        "cache_mib": round(cache_bytes / 2**20, 1),
    }  # fmt: skip


def _retrieval(path: Path, largest: int, bar: tqdm, peak: float) -> Iterator[dict[str, Any]]:
    """Times searches among ever more keys.

    The keys are those of all steps of the dataset. If more are needed, points between neighbours
    are added.
    """
    dataset = EpisodeFile(path)
    with seeded(0):
        net = EmbeddingModule(dataset.spec).net
    step_mask = slices(dataset.mapped(), dataset.spec.bounds).trajectories.step_mask
    vectors = offline_keys(net, dataset, path.parent).vectors[step_mask]
    vectors = vectors[distinct(vectors)]
    rng = np.random.default_rng(0)
    for n in KEYS:
        if n > largest:
            continue
        keys = _resized(vectors, n + _QUERIES, rng)
        queries, keys = keys[:_QUERIES], keys[_QUERIES:]
        tie, exact, products = np.zeros(_QUERIES), None, 2.0 * keys.size * _QUERIES
        lists = int(2 ** np.floor(np.log2(2.5 * n**0.5)))
        for factory in ("Flat", f"IVF{lists},Flat;nprobe=16"):
            start = time.perf_counter()
            index = KeyIndex.build(keys[:, None], np.ones((n, 1), bool), factory)
            build = time.perf_counter() - start
            seconds, _ = median_time(partial(index.search, 0, queries, 50, tie), "cpu", "fp32")
            nearest = index.search(0, queries, 50, tie).item
            exact = nearest if exact is None else exact
            recall = np.mean(
                [len(np.intersect1d(a, b)) / 50 for a, b in zip(nearest, exact, strict=True)]
            )
            share = {}
            if factory == "Flat":  # of other indices the number of operations is not known
                share = {"share_of_peak": round(products / seconds / peak, 4)}
            yield {
                "part": "retrieval", "keys": n, "index": factory,
                "ms_per_query": round(1000 * seconds / _QUERIES, 4),
                **share,
                "recall_at_50": round(float(recall), 4),
                "build_seconds": round(build, 1),
                "index_mib": round(keys.nbytes / 2**20, 1),
            }  # fmt: skip
            bar.update()
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


def training_step(module: MaiccModule, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """Makes a function that trains `module` for one step of AdamW on `loss`."""
    module.train().requires_grad_(True)
    adam = torch.optim.AdamW(module.parameters(), 1e-4)

    def step() -> None:
        adam.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        adam.step()

    return step


def median_time(work: Callable[[], object], device: str, precision: str) -> tuple[float, float]:
    """Measures the median seconds of one call, and its operations in matrix products."""
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        with FlopCounterMode(display=False) as counter:
            work()
        times: list[float] = []
        while len(times) < 3 or sum(times) < _SECONDS:
            start = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return float(np.median(times)), float(counter.get_total_flops())


def _peak(device: str, precision: str) -> float:
    """Measures the operations per second of a square matrix product."""
    n = _PEAK_SIZES[device]
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(n, n, device=device, dtype=kind) for _ in range(2))
    seconds, _ = median_time(lambda: a @ b, device, "fp32")
    return 2 * n**3 / seconds


def _first_batch(data: FamilyData, device: str) -> Any:
    """Makes the first batch of a data module that is set up, without a trainer."""
    return _to(next(data.batches(0)), device)


def _to(batch: Any, device: str) -> Any:
    """Moves a tensor, or all tensors of named tuples, to a device."""
    if batch is None:
        return None
    if isinstance(batch, torch.Tensor):
        return batch.to(device)
    return type(batch)(*(_to(part, device) for part in batch))


def _processor() -> str:
    """Names the machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def markdown(result: dict[str, Any]) -> str:
    """Writes the result of `bench` as a Markdown table, after a line on the machine."""
    m = result["machine"]
    lines = [
        f"{result['family']}; {m['processor']}, {m['cores']} cores, {m['device']}, torch "
        f"{m['torch']}; peak of a matrix product {m['peak_gflops']} GFLOP/s; peak memory "
        f"{result['peak_memory_gib']} GiB.",
        "",
    ]
    common = ("part", "size", "precision", "seconds", "share_of_peak")
    rows = []
    for row in result["rows"]:
        rates = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in row.items() if k not in common)
        rows.append([*(str(row.get(name, "")) for name in common), rates])
    lines += markdown_table([*(name.replace("_", " ") for name in common), "rates"], rows)
    return "\n".join(lines) + "\n"
