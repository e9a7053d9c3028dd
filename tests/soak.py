"""Kill campaign: `python -m tests.soak --kills 100`.

Small pipelines are ended at random moments by SIGINT, SIGTERM and SIGKILL, sometimes a worker of
theirs alone, and begun again until they are done. Their results must equal those of an unbroken
pipeline. An interrupted command must say nothing but that it was interrupted, and no process may be
left over.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import maicc.evaluation.adapt
import maicc.experiments.compare
import maicc.experiments.proof
import maicc.experiments.run
import maicc.training.fit  # noqa: F401 - a forked process need not import it anew
from maicc.data.dataset import EpisodeFile
from maicc.files import read_json
from tests.commands import COMMON, TINY, forked

STEPS = ["--decision.steps=30", "--collect.workers=2", "--collect.episodes=6"]
SMALL = ["--seeds=1", "--tasks=2", "--episodes=8"]
OWN = ["--decision.model.record=2"]
PIPELINES = {
    "run": [
        "run", "lbf_7x7", *TINY, *STEPS, "--embedding.steps=30", "--adapt.episodes=8",
        "--practice.rounds=1", "--practice.runs=4", "--practice.steps=15",
    ],
    "benchmark": [
        "benchmark", "lbf_7x7", *COMMON, *STEPS, *SMALL, *OWN, "--variants=default,no_record",
    ],
    "compare": ["compare", "lbf_7x7", *COMMON, *STEPS, *SMALL, *OWN, "--methods=maicc,dpt,ad"],
    "cluster": [
        "benchmark", "lbf_7x7", *COMMON, *STEPS, *SMALL, *OWN, "--variants=default,no_record",
        "--cluster=local",
    ],
}  # fmt: skip
SHARE = {"run": 0.4, "benchmark": 0.2, "compare": 0.3, "cluster": 0.1}  # of the kills
EXIT_CODES = {  # after each signal; 0 if the command was just done
    signal.SIGINT: (0, 130),
    signal.SIGTERM: (0, 130),
    signal.SIGKILL: (0, -signal.SIGKILL),
}
WORKER = 0.25  # share of the kills that hit a worker, where there is one
PATIENCE = 20.0  # seconds in which a process that was told to end must end
LEFT = 90.0  # seconds in which all that it has started must end; two processes of Ray take 60
TIMES = ("seconds", "adapt_seconds")


@dataclass
class Kill:
    """One kill, and what was wrong after it."""

    pipeline: str
    stage: str
    signal: str
    faults: list[str]


def ended(process: int, seconds: float) -> int | None:
    """Waits for a process to end, and gives its exit code; None if it does not in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        number, status = os.waitpid(process, os.WNOHANG)
        if number:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None


def of_session(session: int) -> list[int]:
    """Processes of a session but its leader."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.parent.name))
    return [process for process in found if process != session]


def workers_of(session: int) -> list[int]:
    """Processes that work for a command. Of Ray these are its workers, not Ray itself."""
    names = {}
    for process in of_session(session):
        with suppress(OSError):
            names[process] = Path(f"/proc/{process}/cmdline").read_bytes()
    of_ray = [process for process, name in names.items() if name.startswith(b"ray::")]
    return of_ray if any(b"raylet" in name for name in names.values()) else list(names)


def stage_of(said: Path) -> str:
    """Names the stage that a command was in, by the last bar that it drew."""
    text = said.read_text(errors="replace") if said.exists() else ""
    labels = [line.split(":")[0] for line in text.replace("\r", "\n").split("\n") if "%|" in line]
    return labels[-1].strip() if labels else "start"


def content(folder: Path) -> dict[str, Any]:
    """What a pipeline must leave behind, without seconds: tables, results, weights and datasets."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name.startswith("."):
            continue
        if path.suffix == ".json" and path.name not in ("stages.json", "config.json"):
            found[name] = without_times(read_json(path))
        elif path.suffix == ".ckpt":
            state = torch.load(path, weights_only=True)["state_dict"]
            found[name] = {k: v.numpy().tobytes() for k, v in state.items()}
        elif path.suffix == ".h5" and not path.name.startswith("keys-"):
            found[name] = EpisodeFile(path).fingerprint
        elif path.is_file():
            found[name] = "there"
    return found


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            k: without_times(v) for k, v in value.items() if k not in TIMES and "seconds" not in k
        }
    return [without_times(part) for part in value] if isinstance(value, list) else value


def one_kill(process: int, folder: Path, kind: int, rng: np.random.Generator) -> list[str]:
    """Ends a command, or a worker of it; says what is wrong afterwards."""
    workers, faults = workers_of(process), []
    if workers and rng.random() < WORKER:
        try:
            os.kill(workers[int(rng.integers(len(workers)))], signal.SIGKILL)
        except ProcessLookupError:
            return []
        code = ended(process, 5.0)  # it may go on, if it has another worker do the work
        if code is None:
            os.kill(process, signal.SIGKILL)
            code = ended(process, PATIENCE)
        elif code not in (0, 2):
            faults.append(f"exit code {code} after a worker was killed")
    else:
        os.kill(process, kind)
        code = ended(process, PATIENCE)
        if code is None:
            faults.append(f"goes on {PATIENCE} s after the signal")
            os.kill(process, signal.SIGKILL)
            ended(process, PATIENCE)
        elif code not in EXIT_CODES[kind]:
            faults.append(f"exit code {code}")
    said = (folder / "said.txt").read_text(errors="replace")
    if faults:
        faults.append(said[-500:])
    elif "Traceback" in said:
        faults.append(said[said.index("Traceback") :][-1500:])
    until = time.monotonic() + LEFT
    while (left := of_session(process)) and time.monotonic() < until:
        time.sleep(0.05)
    for leftover in left:
        name = Path(f"/proc/{leftover}/cmdline").read_text().replace("\0", " ")[:100]
        faults.append(f"process {leftover} is left over: {name}")
        os.kill(leftover, signal.SIGKILL)
    return faults


def campaign(
    name: str, kills: int, rng: np.random.Generator, home: Path, found: list[Kill]
) -> Iterator[None]:
    """Kills a pipeline so many times, over as many repetitions as it takes.

    Yields after each kill, which is added to `found`.
    """
    arguments = [*PIPELINES[name], "--out=out"]
    whole = home / f"{name}-whole"
    whole.mkdir()
    begun = time.monotonic()
    code = ended(forked(arguments, whole), 3600.0)
    length = time.monotonic() - begun
    if code != 0:
        raise SystemExit(f"{name} does not run: {(whole / 'said.txt').read_text()[-2000:]}")
    expected = content(whole / "out")
    kills += len(found)
    while len(found) < kills:
        folder = home / f"{name}-broken"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        while True:
            process = forked(arguments, folder)
            moment = float(rng.uniform(0.0, length)) if len(found) < kills else 3600.0
            code = ended(process, moment)
            if code is not None:
                break
            kind = list(EXIT_CODES)[int(rng.integers(len(EXIT_CODES)))]
            stage = stage_of(folder / "said.txt")
            faults = one_kill(process, folder, kind, rng)
            found.append(Kill(name, stage, signal.Signals(kind).name, faults))
            yield
        said = (folder / "said.txt").read_text(errors="replace")
        if code != 0:
            found[-1].faults.append(f"does not go on, exit code {code}: {said[-1500:]}")
            continue
        result = content(folder / "out")
        differing = [k for k in {*result, *expected} if result.get(k) != expected.get(k)]
        if differing and found:
            found[-1].faults.append(f"differ from an unbroken one: {sorted(differing)}")


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=PIPELINES, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    kills: list[Kill] = []
    rng = np.random.default_rng(options.seed)
    names = [options.only] if options.only else list(PIPELINES)
    with (
        tempfile.TemporaryDirectory() as home,
        tqdm(total=options.kills, unit="kill") as bar,
        suppress(KeyboardInterrupt),  # the table is then of the kills so far
    ):
        for name in names:
            count = options.kills if options.only else round(options.kills * SHARE[name])
            for _ in campaign(name, count, rng, Path(home), kills):
                bar.update()
    counts = Counter((kill.pipeline, kill.stage) for kill in kills)
    faulty = Counter((kill.pipeline, kill.stage) for kill in kills if kill.faults)
    print("| pipeline | killed in | kills | faults |\n|---|---|---|---|")
    for key, count in counts.items():
        print(f"| {key[0]} | {key[1]} | {count} | {faulty[key]} |")
    by_signal = Counter(kill.signal for kill in kills)
    print(", ".join(f"{name}: {count}" for name, count in by_signal.items()))
    for kill in kills:
        for fault in kill.faults:
            print(f"\n{kill.pipeline}, {kill.stage}, {kill.signal}\n{fault}")
    sys.exit(1 if faulty else 0)


if __name__ == "__main__":
    _main()
