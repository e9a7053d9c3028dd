"""Speed of every part, beside the machine's own peak measured in the same run.

The models are untrained, as training does not change what a computation costs.
"""

from __future__ import annotations

import gc
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from maicc.baselines import method_of
from maicc.config import (
    CollectConfig,
    DecisionConfig,
    DecisionFit,
    EmbeddingConfig,
    EmbeddingFit,
    MaiccRun,
    OptimiserConfig,
)
from maicc.data.collect import collect
from maicc.data.dataset import EpisodeFile
from maicc.data.slices import slices
from maicc.envs import BatchEnv, TaskFamily, batch_env, get_family
from maicc.evaluation.adapt import play_episode
from maicc.evaluation.markdown import markdown_table
from maicc.files import ModelFiles
from maicc.models.batching import tensors
from maicc.teams.running import RunningPrefix
from maicc.teams.team import Team
from maicc.training.family_data import FamilyData
from maicc.training.fit import resolve_device, seeded
from maicc.training.modules import DecisionModule, EmbeddingModule, MaiccModule
from maicc.training.offline_keys import offline_keys, offline_memory

SIZES = {
    "record, the default": (EmbeddingConfig(), DecisionConfig()),
    "retrieval": (EmbeddingConfig(), DecisionConfig(k=3, record=0)),
    "retrieval, the paper's size": (
        EmbeddingConfig(layers=8, heads=8),
        DecisionConfig(layers=8, heads=8, tokens="four", context="concatenated", k=3, record=0),
    ),
}
# What the authors' code does in a second on two cores: a model of the paper's size on lbf_7x7, with
# batches of 32 episodes in fp32. It was measured once, on a machine such as that of docs/speed.md.
AUTHORS_FAMILY = "lbf_7x7"
AUTHORS = {
    "embedding step": ("episodes_per_second", 32 / 0.57),
    "keys": ("episodes_per_second", 9000 / 183),
    "decision step": ("actions_per_second", 96 / 6.1),
    "adaptation": ("run_episodes_per_second", 1.0),
}
_SECONDS = 4.0  # least time for each measurement
_PEAK_SIZES = {"cuda": 8192, "cpu": 2048}  # rows of the square matrices
_RUNS = 50
_TRAJECTORIES = 1536  # whose keys are made in one call


def bench(name: str, device: str = "auto", shipped: MaiccRun | None = None) -> dict[str, Any]:
    """Times training, keys and adaptation on a task family.

    Args:
        name: Name of the family.
        device: `cpu`, `cuda`, or `auto` for the GPU where there is one.
        shipped: Configuration that is timed; models of all `SIZES` if None.

    Returns:
        The machine, and one row for each part, in plain JSON.
    """
    family, device = get_family(name), resolve_device(device)
    rows: list[dict[str, Any]] = []
    peaks = {p: peak(device, p) for p in ("fp32", "bf16")}
    runs = {"as shipped": shipped} if shipped else {size: _run(name, size) for size in SIZES}
    total = sum(7 if run.decision.model.k else 3 for run in runs.values())
    with (
        TemporaryDirectory() as folder,
        tqdm(desc="bench", unit="part", total=total) as bar,
    ):
        path = Path(folder) / "episodes.h5"
        collect(family, path, shipped.collect if shipped else CollectConfig(), seed=0)
        for size, run in runs.items():
            for row in _models(family, path, size, run, device, peaks):
                if name == AUTHORS_FAMILY and device == "cpu":
                    rate, theirs = AUTHORS[row["part"]]
                    row["times_the_authors"] = f"{row[rate] / theirs:.3g}"
                rows.append(row)
                bar.update()
    return {
        "family": name,
        "machine": machine(device),
        "peak_gflops": {p: round(value / 1e9, 1) for p, value in peaks.items()},
        "rows": rows,
        "peak_memory_gib": _peak_memory(),
    }


def _run(name: str, size: str) -> MaiccRun:
    """Makes a run of the models of one of `SIZES`, with the default options for the rest."""
    embedding, decision = SIZES[size]
    return MaiccRun(
        name, embedding=EmbeddingFit(model=embedding), decision=DecisionFit(model=decision)
    )


def machine(device: str) -> dict[str, Any]:
    """Describes what the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
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
    run: MaiccRun,
    device: str,
    peak: dict[str, float],
) -> Iterator[dict[str, Any]]:
    """Times the models of a run: their training steps, keys and adaptation.

    Where nothing is looked up there is no embedding.
    """
    spec = EpisodeFile(path).spec
    with seeded(0):
        embedding = EmbeddingModule(spec, run.embedding.model, OptimiserConfig())
        decision = DecisionModule(spec, run.decision.model, OptimiserConfig())
    embedding, decision = embedding.to(device), decision.to(device)
    method, files = method_of("maicc"), ModelFiles.in_folder(path.parent)
    data: Any = method.prepare("embedding", run, files)[2]
    data.setup("fit")
    batch = _first_batch(data, device)

    dataset, k = EpisodeFile(path), run.decision.model.k
    stored, keys = slices(dataset.mapped(), spec.bounds), None
    if k:
        index = run.decision.retrieval.index
        keys = offline_keys(embedding.net, dataset, path.parent, index, device)
    retrieval: Any = method.prepare("decision", run, files)[2]
    retrieval.use(keys, stored)
    queries = _first_batch(retrieval, device)
    count = min(_TRAJECTORIES, len(stored))
    trajectories = _to(tensors(stored.take(np.arange(count))), device)

    def embedding_loss() -> torch.Tensor:
        return embedding.net.total(embedding.net.losses(batch))

    def decision_loss() -> torch.Tensor:
        return decision.net.loss(queries)[0]

    # name, maker of the function to time, and the counts of one call that give its rates
    parts: list[tuple[str, Callable[[], Callable[[], object]], dict[str, float]]] = [
        ("embedding step", lambda: training_step(embedding, embedding_loss),
         {"episodes_per_second": len(batch.agent_mask)}),
        ("keys", lambda: partial(embedding.net.keys, trajectories),
         {"episodes_per_second": count / spec.n_agents}),
        ("decision step", lambda: training_step(decision, decision_loss),
         {"queries_per_second": run.decision.batch_size,
          "actions_per_second": int(queries.current.step_mask.sum())}),
    ]  # fmt: skip
    if not k:
        del parts[:2]
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
    net = embedding.net if k else None
    team = Team(
        decision.spec, net, decision.net, memory, run.adapt.memory, list(range(_RUNS)),
        episodes=run.adapt.episodes, states_bounds=family.return_bounds is not None, device=device,
    )  # fmt: skip
    with closing(batch_env(family, family.draw_tasks(_RUNS, 0))) as env:
        adapted = _adapted(team, env, peak["fp32"])
    yield {"part": "adaptation", "size": size, "precision": "fp32", **adapted}
    gc.collect()


def _adapted(team: Team, env: BatchEnv, peak: float) -> dict[str, Any]:
    """Times the adaptation of `_RUNS` teams in lock step, which search: they are not trained."""
    decision: Any = team.decision
    env_parts = [(env, "step"), (env, "reset")]
    reading = [(decision, name) for name in ("extend", "catch_up", "forward")]
    reading += [(team.encoded_contexts, "encode"), (team.encoded_episodes, "encode")]
    reading += [(decision.encoders.observation, "forward")]
    reading += [(RunningPrefix, "query"), (RunningPrefix, "advance")]
    searching = [(team.memory, "retrieve"), (team.memory, "contexts")]
    parts = {"environment": env_parts, "networks": reading, "search": searching}
    episodes = 0
    with Shares(parts) as shares:
        while episodes < 5 or shares.total() < 3 * _SECONDS:
            if episodes == 2:  # the first two episodes fill caches and do not count
                shares.start()
            play_episode(team, env, [1000 * episodes + i for i in range(_RUNS)])
            episodes += 1
        per_episode, of = shares.total() / (episodes - 2), shares.shares()
    kept_bytes = team.kept_bytes()
    with FlopCounterMode(display=False) as counter:  # not timed: counting slows
        play_episode(team, env, [1000 * episodes + i for i in range(_RUNS)])
    return {
        "seconds": round(per_episode, 4),
        "share_of_peak": round(counter.get_total_flops() / per_episode / peak, 4),
        "run_episodes_per_second": round(_RUNS / per_episode, 1),
        **{name: f"{share:.0%}" for name, share in of.items()},
        "cache_mib": round(kept_bytes / 2**20, 1),
    }


class Shares:
    """Clock of a whole piece of work, and of the calls that make up its parts.

    Args:
        parts: For each part the functions that belong to it, as objects and names. They are
            replaced inside a `with` block. A call inside another one counts for the outer one.
    """

    def __init__(self, parts: Mapping[str, Sequence[tuple[Any, str]]]) -> None:
        self.parts, self.inside = parts, False
        self.restored = ExitStack()
        self.start()

    def start(self) -> None:
        """Starts all clocks anew."""
        self.began, self.seconds = time.perf_counter(), dict.fromkeys(self.parts, 0.0)

    def total(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.began

    def shares(self) -> dict[str, float]:
        """Share of each part, and of the rest."""
        total = self.total()
        shares = {name: seconds / total for name, seconds in self.seconds.items()}
        return {**shares, "rest": 1.0 - sum(shares.values())}

    def __enter__(self) -> Shares:
        for part, functions in self.parts.items():
            for owner, name in functions:
                timed = self._timed(part, getattr(owner, name))
                self.restored.enter_context(patch.object(owner, name, timed))
        return self

    def __exit__(self, *_: object) -> None:
        self.restored.close()

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if self.inside:
                return function(*args, **options)
            self.inside, start = True, time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                self.inside = False
                self.seconds[part] += time.perf_counter() - start

        return call


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


def peak(device: str, precision: str) -> float:
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
        f"{m['torch']}; peak of a matrix product {result['peak_gflops']} GFLOP/s; peak memory "
        f"{result['peak_memory_gib']} GiB.",
        "",
    ]
    common = ("part", "size", "precision", "seconds", "share_of_peak", "times_the_authors")
    rows = []
    for row in result["rows"]:
        rates = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in row.items() if k not in common)
        rows.append([*(str(row.get(name, "")) for name in common), rates])
    lines += markdown_table([*(name.replace("_", " ") for name in common), "rates"], rows)
    return "\n".join(lines) + "\n"
