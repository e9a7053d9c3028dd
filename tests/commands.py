"""Commands as tests call them, and the options of runs that take seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import pytest
from tqdm import tqdm

from maicc.cli import main

COMMON = [
    "--collect.episodes=3", "--collect.levels=[0.0,1.0]", "--collect.workers=1", "--device=cpu",
    "--decision.batch_size=8",
    *(f"--decision.model.{k}={v}" for k, v in (("width", 16), ("layers", 2), ("heads", 2))),
]  # fmt: skip


RUNS = ["--adapt.runs=2", "--adapt.training_runs=2"]
TINY = [  # of MAICC with all its networks
    *COMMON, *RUNS, "--decision.model.k=2", "--decision.model.record=2", "--embedding.batch_size=4",
    *(f"--embedding.model.{k}={v}" for k, v in (("width", 16), ("layers", 2), ("heads", 2))),
]  # fmt: skip


def maicc(*arguments: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, "-m", "maicc", *arguments], capture_output=True, text=True, cwd=cwd
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def forked(arguments: list[str], folder: Path) -> int:
    """Starts a command in a process and session of its own, in a folder, and gives its number.

    What it says is in said.txt. A forked process has imported everything already, which takes a new
    one ten seconds.
    """
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        # another child may have been killed while it held the lock that all of them share
        tqdm.set_lock(threading.RLock())
        said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        main(arguments)
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def refused(capsys, *arguments: str) -> str:
    """What a refused command says; it must leave with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said
