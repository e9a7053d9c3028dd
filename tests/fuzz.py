"""Damaged files of every kind that maicc reads: `python -m tests.fuzz --each 300`.

Each case takes a good file, damages it, and lets maicc read it. Either the file is refused in at
most three lines, or what is read is what was written. Files that people write by hand, and arrays
of their own, may also be read as something else that is valid: there nothing tells a damage from an
edit. Nothing may end in another error, and no code that lies in a file may run.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from tqdm import tqdm

from maicc.cli import main
from maicc.config import DecisionConfig, DecisionFit, MemoryConfig, PracticeFit
from maicc.data.arrays import convert_arrays
from maicc.data.behaviour import play
from maicc.data.dataset import EpisodeFile
from maicc.data.episodes import concatenate
from maicc.data.reference import convert_reference
from maicc.data.slices import Observed
from maicc.envs import get_family
from maicc.evaluation.adapt import adapt
from maicc.evaluation.bundle import bundle
from maicc.evaluation.run_folder import files_of, read_config
from maicc.evaluation.traces import load_traces, traces_of
from maicc.evaluation.trained import load_folder
from maicc.experiments import fits
from maicc.experiments.run import run
from maicc.training.checkpoints import load_module
from maicc.training.fit import Resumable
from maicc.training.modules import DecisionModule, EmbeddingModule
from maicc.training.offline_keys import offline_keys
from maicc.training.practice_data import PracticeRuns
from maicc.types import UserError
from tests.conftest import tiny_config
from tests.damage import damage
from tests.layouts import authors_arrays, write_h5

FAMILY = get_family("lbf_7x7")
MOST_LINES = 3


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Args:
        name: Name in the table.
        good: A good file.
        read: Reads a file as maicc does, and returns what it read.
        editable: Whether a damaged file may also be read as something else that is valid.
    """

    name: str
    good: Path
    read: Callable[[Path], Any]
    editable: bool = False


def plain(value: Any) -> Any:
    """Makes anything that maicc reads comparable."""
    if isinstance(value, np.ndarray | torch.Tensor):
        array = np.asarray(value)
        return (str(array.dtype), array.shape, array.tobytes())
    if isinstance(value, Observed):
        return plain(value[:])
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value


def outcome(kind: Kind, path: Path, expected: Any) -> str:
    """Reads a file: `refused`, `equal`, `another`, or a fault, which begins with FAULT."""
    said = io.StringIO()
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(said):
            read = plain(kind.read(path))
    except (UserError, OSError) as error:
        lines = str(error).strip().splitlines()
        return "refused" if len(lines) <= MOST_LINES else f"FAULT: {len(lines)} lines"
    except SystemExit as stop:
        lines = said.getvalue().replace("\r", "\n").strip().splitlines()
        if stop.code == 2 and len(lines) <= MOST_LINES:
            return "refused"
        return f"FAULT: exit {stop.code} with {len(lines)} lines: {said.getvalue()[-300:]}"
    except BaseException:
        return f"FAULT: {traceback.format_exc()}"
    if read == expected:
        return "equal"
    return "another" if kind.editable else "FAULT: something else was read"


def case(kind: Kind, seed: int, folder: Path, expected: Any) -> tuple[str, str]:
    """Runs one case: how the file was damaged, and what came of it."""
    rng = np.random.default_rng(seed)
    path, marker = folder / kind.good.name, folder / "code-was-run"
    shutil.copy(kind.good, path)
    how = damage(path, rng, marker)
    came = outcome(kind, path, expected)
    if marker.exists():
        marker.unlink()
        came = "FAULT: code in the file was run"
    path.unlink(missing_ok=True)
    return how, came


def kinds(folder: Path) -> list[Kind]:
    """Makes a good file of every kind in `folder`."""
    config = tiny_config()
    config.decision = DecisionFit(
        model=DecisionConfig(width=16, layers=1, heads=2, k=2, record=2), batch_size=8, steps=4
    )
    config.practice = PracticeFit(rounds=1, runs=2, episodes=2, steps=2, batch_size=8)
    config.adapt.memory = MemoryConfig()
    home = folder / "run"
    run(config, home)
    files = files_of(home, config)
    spec, dataset = FAMILY.spec, EpisodeFile(files.episodes)
    embedding = load_module(files["embedding"], EmbeddingModule, spec)
    keys = next(home.glob("keys-*.h5"))
    models = load_folder(home, spec, "cpu")
    tasks = FAMILY.held_out_tasks[:2]

    def adapted(state: Path | None) -> Any:
        return adapt(models, FAMILY, tasks, config.adapt, 0, state)["runs"]

    def read_keys(path: Path) -> Any:
        beside = path.parent / "beside"
        beside.mkdir(exist_ok=True)
        shutil.copy(path, beside / keys.name)
        found = offline_keys(embedding.net, dataset, beside, config.decision.retrieval.index)
        return found.vectors, found.individual_return

    def read_module(module: Any) -> Callable[[Path], Any]:
        return lambda path: load_module(path, module, spec).state_dict()

    def read_config_alone(path: Path) -> Any:
        beside = path.parent / "config"
        beside.mkdir(exist_ok=True)
        shutil.copy(path, beside / "config.json")
        return read_config(beside)

    def read_bundle(path: Path) -> Any:
        models = load_folder(path, spec, "cpu")
        acts = [models.embedding.state_dict(), models.decision.state_dict()]
        stored = models.offline.trajectories._asdict()
        return read_config(path), acts, stored, models.offline.individual_return

    def imported(convert: Callable[..., None]) -> Callable[[Path], Any]:
        def read(path: Path) -> Any:
            out = path.parent / "imported.h5"
            out.unlink(missing_ok=True)
            convert(path, FAMILY, out)
            return EpisodeFile(out).read()

        return read

    def typed(*arguments: str) -> Callable[[Path], Any]:
        """Types a command that names the file; what it would run is not run."""

        def read(path: Path) -> Any:
            words = [word.replace("FILE", str(path)) for word in arguments]
            with (
                mock.patch("maicc.experiments.run.run") as ran,
                mock.patch("maicc.experiments.benchmark.finish"),
                mock.patch("maicc.experiments.benchmark.write_table", side_effect=SystemExit(0)),
            ):
                try:
                    main([*words, "--out", str(path.parent / "nothing")])
                except SystemExit as stop:
                    if stop.code:
                        raise
                return [asdict(call.args[0]) for call in ran.call_args_list]

        return read

    def resumed(path: Path) -> Any:
        part = home / "decision.part.ckpt"
        shutil.copy(path, part)
        again = {**files.checkpoints, "decision": home / "decision.ckpt"}
        kept = home / "decision.kept"
        os.replace(again["decision"], kept)
        try:
            fits.fit_model("decision", config, files)
            return load_module(again["decision"], DecisionModule, spec).state_dict()
        finally:
            os.replace(kept, again["decision"])
            part.unlink(missing_ok=True)

    given = folder / "given"
    given.mkdir()
    theirs = write_h5(given / "theirs.h5", authors_arrays(_episodes()))
    return [
        Kind("dataset", files.episodes, lambda path: _dataset(path)),
        Kind("arrays, .npz", _arrays(given / "mine.npz"), imported(convert_arrays), True),
        Kind("arrays, .h5", _arrays(given / "mine.h5"), imported(convert_arrays), True),
        Kind("authors' layout", theirs, imported(convert_reference), True),
        Kind("keys", keys, read_keys),
        Kind("embedding", files["embedding"], read_module(EmbeddingModule)),
        Kind("decision model", files["decision"], read_module(DecisionModule)),
        Kind("unfinished fit", _unfinished(home, config, files), resumed),
        Kind("practice runs", next(home.glob("*.runs.npz")), lambda p: PracticeRuns.read(p)),
        Kind("unfinished adaptation", _interrupted(adapted, given / "state.npz"), adapted),
        Kind("traces", traces_of(home), load_traces),
        Kind("bundle", _bundle(home, given / "team.maicc"), read_bundle),
        Kind("config.json", home / "config.json", read_config_alone, True),
        Kind("run's YAML", _run_yaml(given / "run.yaml"), typed("run", "FILE"), True),
        Kind(
            "variants", _variants(given / "variants.yaml"),
            typed(
                "benchmark", "lbf_7x7", "--variants_file", "FILE", "--variants", "every",
                "--seeds", "1", "--tasks", "1",
            ), True,
        ),
    ]  # fmt: skip


def _dataset(path: Path) -> Any:
    file = EpisodeFile(path)
    return file.spec, file.tasks, file.behaviours, file.read()


def _episodes() -> Any:
    played = [play(FAMILY, t, 0.3, [(1, e) for e in range(2)]) for t in FAMILY.training_tasks]
    return concatenate(played)


def _arrays(path: Path) -> Path:
    e = _episodes()
    fields = {
        "observations": e.observations, "actions": e.actions, "rewards": e.rewards,
        "length": e.length, "task": np.repeat(np.arange(len(FAMILY.training)), 2),
        "action_mask": e.action_mask, "terminated": e.terminated,
    }  # fmt: skip
    if path.suffix == ".npz":
        np.savez(path, **fields)
    else:
        write_h5(path, fields)
    return path


def _unfinished(home: Path, config: Any, files: Any) -> Path:
    """State of the decision model's fit after two steps."""
    kept, part = home / "decision.kept", home / "decision.part.ckpt"
    os.replace(files["decision"], kept)
    real = Resumable.on_train_batch_end

    def ctrl_c(self: Any, trainer: Any, *rest: Any) -> None:
        self.interrupted = trainer.global_step == 2
        real(self, trainer, *rest)

    try:
        with mock.patch.object(Resumable, "on_train_batch_end", ctrl_c):
            fits.fit_model("decision", config, files)
    except KeyboardInterrupt:
        pass
    os.replace(kept, files["decision"])
    return part.rename(home.parent / "unfinished.ckpt")


def _interrupted(adapted: Callable[[Path], Any], state: Path) -> Path:
    """State of an adaptation after two episodes."""
    from maicc.evaluation import adapt as module

    real, calls = module.play_episode, []

    def ctrl_c(*arguments: Any, **options: Any) -> Any:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*arguments, **options)

    try:
        with mock.patch.object(module, "play_episode", ctrl_c):
            adapted(state)
    except KeyboardInterrupt:
        pass
    return state


def _bundle(home: Path, path: Path) -> Path:
    bundle(home, path)
    return path


def _run_yaml(path: Path) -> Path:
    path.write_text(
        "family: lbf_7x7\ncollect: {levels: [0.0, 1.0], episodes: 3}\n"
        "decision: {steps: 10, model: {k: 2, width: 16, heads: 2}}\n"
        "adapt: {episodes: 3, memory: {schedule: evidence, margin: .inf}}\n"
    )
    return path


def _variants(path: Path) -> Path:
    path.write_text(
        "default: {}\nk_2: {decision.model.k: 2}\n"
        "rates: {decision.optimiser.learning_rate: 1e-3}\n"
        "other: {method: dpt, decision.steps: 5}\n"
    )
    return path


def campaign(each: int, seed: int, only: str | None = None) -> list[tuple[str, Counter, list]]:
    """Runs `each` cases of every kind: the name, counts of what came, and the faults."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            every = kinds(folder)
        work = folder / "work"
        work.mkdir()
        for kind in every:
            if only is not None and kind.name != only:
                continue
            shutil.copy(kind.good, work / kind.good.name)
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                expected = plain(kind.read(work / kind.good.name))
            counts: Counter = Counter()
            faults = []
            for i in tqdm(range(each), desc=kind.name, unit="case"):
                how, came = case(kind, seed + i, work, expected)
                counts["fault" if came.startswith("FAULT") else came] += 1
                if came.startswith("FAULT"):
                    faults.append((seed + i, how, came))
            rows.append((kind.name, counts, faults))
    return rows


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, default=300, help="cases of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=None, help="one kind, by its name")
    options = parser.parse_args()
    rows = campaign(options.each, options.seed, options.only)
    print("| kind | refused | equal | another | faults |\n|---|---|---|---|---|")
    for name, counts, _ in rows:
        cells = [str(counts[c]) for c in ("refused", "equal", "another", "fault")]
        print(f"| {name} | {' | '.join(cells)} |")
    faults = [(name, *fault) for name, _, found in rows for fault in found]
    for name, seed, how, came in faults:
        print(f"\n{name}, seed {seed}, {how}\n{came}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    _main()
