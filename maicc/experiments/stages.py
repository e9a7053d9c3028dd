"""One runner of stages: a stage makes one file, once, however often it is called or broken off.

A stage is finished when its file is there; files are written whole or not at all.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from maicc.files import locked, read_json, write_json


@dataclass(frozen=True)
class Stage:
    """One file, and how it is made.

    Args:
        name: What users read, and the clock's entry.
        target: The file that the stage leaves.
        make: Makes it; it is told how many seconds the stage has taken before, in calls that were
            broken off.
        finish: Removes what is needed only until the file is there.
    """

    name: str
    target: Path
    make: Callable[[float], object]
    finish: Callable[[], object] = lambda: None


class Clock:
    """Seconds that each stage has taken, broken-off calls included, kept in a file.

    Args:
        path: JSON, seconds by stage.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = read_json(path) if path.exists() else {}

    def add(self, name: str, seconds: float) -> None:
        """Counts more seconds of a stage."""
        self.seconds[name] = round(self.seconds.get(name, 0.0) + seconds, 2)
        write_json(self.path, self.seconds)


def run_stage(stage: Stage, clock: Clock, *, quiet: bool = False) -> None:
    """Makes a stage's file unless it is there; waits where another process is making it.

    Args:
        clock: Where its seconds are counted.
        quiet: Say nothing of a file that is there.

    Raises:
        UserError: what the stage raises.
        KeyboardInterrupt: Ctrl-C; the same call goes on where it stopped.
    """
    with locked(stage.target):
        if stage.target.exists():
            if not quiet:
                print(f"{stage.name}: {stage.target} is there")
            stage.finish()
            return
        start = time.monotonic()
        try:
            stage.make(clock.seconds.get(stage.name, 0.0))
        finally:
            clock.add(stage.name, time.monotonic() - start)
        stage.finish()
    gc.collect()  # a trainer and its dataset hold each other
