"""The whole pipeline in one folder: collect, embedding, keys, decision, adapt, report.

A stage is finished when its file is there; files are written whole or not at all.
"""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from maicc.config import (
    AdaptConfig,
    DecisionFit,
    RunConfig,
    check_choices,
    check_encoder,
    from_json,
)
from maicc.data.behaviour import behaviour_count, labelling_policy
from maicc.data.collect import check_settings, collect
from maicc.data.contract import check_family
from maicc.data.dataset import EpisodeFile, require_expert
from maicc.envs import TaskFamily, get_family
from maicc.files import ModelFiles, locked, read_json, write_json
from maicc.memory.index import empty_index
from maicc.types import UserError

HAVE_EMBEDDING = ("maicc", "radt")  # methods that are trained in two stages


def run(config: RunConfig, out: Path) -> None:
    """Runs what is not finished yet in `out`.

    Raises:
        UserError: the configuration is wrong, or `out` was made with another one.
        KeyboardInterrupt: Ctrl-C; the same call goes on where it stopped.
    """
    family = get_family(config.family)
    check_family(family)
    check(config, family)
    print(memory_needed(config, family))
    with locked(out / "report.html"):
        _run(config, family, out)


def _run(config: RunConfig, family: TaskFamily, out: Path) -> None:
    _same_configuration({**config.identity(), "tasks": family.fingerprint}, out / "config.json")
    stages = Stages(out / "stages.json")
    files = ModelFiles.in_folder(out)
    stages.run(
        "collect",
        files.episodes,
        lambda: collect(family, files.episodes, config.collect, config.seed),
    )
    for parts in out.glob("episodes.h5.*.parts"):
        shutil.rmtree(parts)  # left by a kill just after the dataset was written
    _same_dataset(files.episodes, out / "dataset.json")
    if learns_expert(config):
        require_expert(EpisodeFile(files.episodes).expert_actions())
    if config.method in HAVE_EMBEDDING:
        stages.run("embedding", files.embedding, lambda: fit_embedding(config, files))
    stages.run("decision", files.decision, lambda: fit_decision(config, files))
    stages.run("adapt", out / "adapt" / "result.json", lambda: _adapt(config, out, stages, True))
    if config.adapt.training_runs:
        training = out / "adapt" / "training.json"
        stages.run("adapt (training tasks)", training, lambda: _adapt(config, out, stages, False))
    sources = (files.episodes, *(out / "adapt").glob("*.json"))
    report, newest = out / "report.html", max(path.stat().st_mtime_ns for path in sources)
    if report.exists() and report.stat().st_mtime_ns < newest:
        report.unlink()  # `maicc report` wrote it of what was finished then
    stages.run("report", report, lambda: _report(out))


def check(config: RunConfig, family: TaskFamily) -> None:
    """Refuses, before any long work, what can't work."""
    check_choices(config)
    if config.device == "cuda":
        from maicc.training.fit import resolve_device

        resolve_device(config.device)
    empty_index(config.embedding.model.width, config.decision.retrieval.index)
    k, c = config.decision.model.k, config.collect
    stored = len(family.training) * c.episodes * behaviour_count(family, c)
    inf = float("inf")
    check_adaptation(config.adapt, config.seed, k)
    _check_ranges(
        ("baseline.episodes", config.baseline.episodes, 2, inf),
        ("baseline.set_episodes", config.baseline.set_episodes, 1, inf),
        ("baseline.window", config.baseline.window, 1, inf),
        ("decision.retrieval.candidates", config.decision.retrieval.candidates, max(k, 1), inf),
        ("decision.model.k", k, 0, (stored - 1) * family.spec.n_agents),
        ("decision.model.label_smoothing", config.decision.model.label_smoothing, 0, 1),
    )
    if config.embedding.model.credit == "teacher" and not config.embedding.model.teacher:
        raise UserError(
            "embedding.model.credit=teacher needs a teacher; set it to local, or "
            "embedding.model.teacher=true"
        )
    for name in ("window", "tokens"):
        if getattr(config.embedding, name) < 0:
            raise UserError(f"embedding.{name} must be at least 0, for no limit")
    for name, fit in (("embedding", config.embedding), ("decision", config.decision)):
        model, rate = fit.model, fit.optimiser.learning_rate
        if fit.steps < 1 or fit.batch_size < 1 or model.layers < 1:
            raise UserError(f"{name}.steps, .batch_size and .model.layers must be at least 1")
        if getattr(model, "attention", "joint") == "factored" and model.layers < 2:
            raise UserError(f"{name}.model.attention=factored needs {name}.model.layers=2 or more")
        if rate <= 0 or not 0 <= model.dropout < 1:
            raise UserError(
                f"{name}.optimiser.learning_rate={rate} must be above 0, and "
                f"{name}.model.dropout={model.dropout} in [0, 1)"
            )
        check_encoder(model.encoder, family.spec)
        if model.width < 1 or model.heads < 1 or model.width % model.heads:
            raise UserError(
                f"{name}.model.width={model.width} must be a multiple of heads={model.heads}"
            )
    check_settings(family, config.collect)
    if learns_expert(config) and labelling_policy(family) is None:
        who = "method=dpt" if config.method == "dpt" else "decision.model.labels=expert"
        raise UserError(
            f"{who} learns the actions of the best behaviour policy, and {family.name} has none: "
            "give the family an expert or policies, or leave it out"
        )


def learns_expert(config: RunConfig) -> bool:
    """Whether the best behaviour policy's actions are learned."""
    if config.method == "maicc":
        return config.decision.model.labels == "expert"
    return config.method == "dpt"


def check_adaptation(config: AdaptConfig, seed: int, k: int = 0) -> None:
    """Refuses settings of an adaptation that can't work."""
    memory, inf = config.memory, float("inf")
    _check_ranges(
        ("seed", seed, 0, inf),
        ("adapt.episodes", config.episodes, 1, inf),
        ("adapt.runs", config.runs, 1, inf),
        ("adapt.training_runs", config.training_runs, 0, inf),
        ("adapt.memory.alpha", memory.alpha, 0, 1),
        ("adapt.memory.beta", memory.beta, 0, 1),
        ("adapt.memory.margin", memory.margin, 0, inf),
        ("adapt.memory.floor", memory.floor, 0, 1),
        ("adapt.memory.window", memory.window, 1, inf),
        ("adapt.memory.max_episodes", memory.max_episodes, 0, inf),
        ("adapt.memory.cache_gib", memory.cache_gib, 0, inf),
        ("adapt.memory.candidates", memory.candidates, max(k, 1), inf),
    )


def _check_ranges(*ranges: tuple[str, float, float, float]) -> None:
    for name, value, low, high in ranges:
        if not low <= value <= high:
            raise UserError(f"{name}={value} must be between {low:g} and {high:g}")


def memory_needed(config: RunConfig, family: TaskFamily) -> str:
    """About how much memory the dataset and the teams take, and which options bound it."""
    s, adapt = family.spec, config.adapt
    count = behaviour_count(family, config.collect) * config.collect.episodes * len(family.training)
    trajectory = s.max_steps * (4 * s.observation_size + 29)  # 29: all else that is kept of a step
    mine = config.method == "maicc"
    width = {"maicc": config.embedding.model.width, "radt": config.decision.model.width}
    key = s.max_steps * 4 * width.get(config.method, 0)
    offline = count * s.n_agents * (2 * trajectory + 2 * key)  # read and sliced; kept and indexed
    kept = adapt.memory.max_episodes if mine else 0
    episodes = min(kept or adapt.episodes, adapt.episodes)
    online = max(adapt.runs, adapt.training_runs) * s.n_agents * episodes * (trajectory + key)
    bounds = "adapt.runs, adapt.memory.max_episodes" if mine else "adapt.runs, adapt.episodes"
    cache = f", {adapt.memory.cache_gib:g} GiB of cache" if mine else ""
    return (
        f"memory: up to {offline / 2**30:.1f} GiB for the dataset and its keys (collect.episodes, "
        f"decision.retrieval.index), {online / 2**30:.1f} GiB for what the teams live through "
        f"({bounds}){cache}"
    )


def _same_configuration(config: dict[str, Any], path: Path) -> None:
    wanted = _flat(config)
    if not path.exists():
        write_json(path, config)
        return
    found = read_json(path)
    from_json(RunConfig, found, str(path))
    found = _flat(found)
    differ = [
        f"{key} {found.get(key)} -> {wanted.get(key)}"
        for key in sorted({*found, *wanted})
        if found.get(key) != wanted.get(key)
    ]
    if differ:
        raise UserError(
            f"{path.parent} was made with another configuration ({'; '.join(differ[:4])}); "
            "choose another --out, or remove the folder"
        )


def _same_dataset(episodes: Path, path: Path) -> None:
    """Refuses models and results of another dataset than the one that is there now."""
    found = {"fingerprint": EpisodeFile(episodes).fingerprint}
    if not path.exists():
        write_json(path, found)
    elif read_json(path) != found:
        raise UserError(
            f"{episodes} is another dataset than the one that the models in {path.parent} were "
            "made from; choose another --out, or remove all else in the folder"
        )


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, part in value.items():
        if isinstance(part, dict):
            flat.update(_flat(part, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = part
    return flat


class Stages:
    """Runs stages that are not finished; keeps the seconds each has taken, restarts included."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = read_json(path) if path.exists() else {}

    def run(self, name: str, result: Path, work: Callable[[], object]) -> None:
        if result.exists():
            print(f"{name}: {result} is there")
            return
        start = time.monotonic()
        try:
            work()
        finally:
            taken = time.monotonic() - start
            self.seconds[name] = round(self.seconds.get(name, 0.0) + taken, 2)
            write_json(self.path, self.seconds)
        gc.collect()  # a trainer and its dataset hold each other


def fit_embedding(config: RunConfig, files: ModelFiles) -> None:
    """The embedding; of RADT, the decision transformer that retrieves."""
    from maicc.training.episode_data import EpisodeData
    from maicc.training.fit import fit, seeded
    from maicc.training.modules import EmbeddingModule

    c = config.embedding
    if config.method == "radt":
        _fit_rival("madt", config, files, files.embedding, c.steps)
        return
    data = EpisodeData(
        config.family, str(files.episodes), c.batch_size, config.seed, c.window, c.tokens
    )
    with seeded(config.seed):
        module = EmbeddingModule(data.spec, c.model, c.optimiser)
    fit(module, data, files.embedding, c.steps, config.device, "embedding")


def _fit_rival(method: str, config: RunConfig, files: ModelFiles, out: Path, steps: int) -> None:
    from maicc.baselines import module_of
    from maicc.training.fit import fit, seeded

    kind, c = module_of(method), config.decision
    data = kind.data(config, files)
    with seeded(config.seed):
        module = kind(data.spec, c.model, c.optimiser, config.baseline)
    fit(module, data, out, steps, config.device, method)


def fit_decision(config: RunConfig, files: ModelFiles) -> None:
    """The decision model, or a rival."""
    from maicc.training.fit import fit, seeded
    from maicc.training.modules import DecisionModule
    from maicc.training.retrieval_data import RetrievalData

    c: DecisionFit = config.decision
    if config.method != "maicc":
        _fit_rival(config.method, config, files, files.decision, c.steps)
        return
    data = RetrievalData(
        config.family, str(files.episodes), str(files.embedding), c.model.k, c.batch_size,
        config.seed, c.retrieval,
    )  # fmt: skip
    with seeded(config.seed):
        module = DecisionModule(data.spec, c.model, c.optimiser)
    fit(module, data, files.decision, c.steps, config.device, "decision")


def _adapt(config: RunConfig, out: Path, stages: Stages, held_out: bool) -> None:
    from maicc.evaluation.adapt import adapt_folder

    adapt_folder(
        out,
        config.adapt,
        config.seed,
        out / "adapt" / ("result.json" if held_out else "training.json"),
        config.device,
        held_out=held_out,
        seconds=stages.seconds,
    )


def _report(out: Path) -> None:
    from maicc.report import write_report

    write_report(out)
    print(f"{out / 'report.html'}: written")
