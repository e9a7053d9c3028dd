"""Commands as tests call them, and the options of runs that take seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from maicc.cli import main

COMMON = [
    "--collect.episodes=3", "--collect.levels=[0.0,1.0]", "--collect.workers=1", "--device=cpu",
    "--decision.batch_size=8", "--adapt.runs=2", "--adapt.training_runs=2",
    *(f"--decision.model.{k}={v}" for k, v in (("width", 16), ("layers", 2), ("heads", 2))),
]  # fmt: skip


TINY = [  # of MAICC with all its networks
    *COMMON, "--decision.model.k=2", "--decision.model.record=2", "--embedding.batch_size=4",
    *(f"--embedding.model.{k}={v}" for k, v in (("width", 16), ("layers", 2), ("heads", 2))),
]  # fmt: skip


def maicc(*arguments: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, "-m", "maicc", *arguments], capture_output=True, text=True, cwd=cwd
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def refused(capsys, *arguments: str) -> str:
    """What a refused command says; it must leave with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said
