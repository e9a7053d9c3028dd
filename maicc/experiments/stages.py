"""Stages, and their runner. A stage makes one file once, however often it is run or interrupted.

A stage is finished when its file exists; files are written whole or not at all.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from maicc.files import locked, read_json, write_json
from maicc.heap import give_back_now


@dataclass(frozen=True)
class Stage:
    """One file, and the function that makes it.

    Args:
        name: Name that users read, and of the clock's entry.
        target: The file that the stage makes.
        make: Function that makes the file.
        finish: Function that removes files which are needed only until `target` exists.
        on_device: Whether a network is trained or acts, on a GPU if there is one.
    """

    name: str
    target: Path
    make: Callable[[], object]
    finish: Callable[[], object] = lambda: None
    on_device: bool = True


class Clock:
    """Seconds that each stage has taken, with interrupted calls, kept in a file.

    Args:
        path: JSON file of the seconds by stage.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = read_json(path) if path.exists() else {}

    def add(self, name: str, seconds: float) -> None:
        """Adds seconds to those of a stage."""
        self.seconds[name] = round(self.seconds.get(name, 0.0) + seconds, 2)
        write_json(self.path, self.seconds)


def run_stage(stage: Stage, clock: Clock, *, quiet: bool = False) -> None:
    """Makes a stage's file unless it exists; waits while another process makes it.

    Args:
        clock: Clock that counts the stage's seconds.
        quiet: Whether nothing is printed if the file exists.

    Raises:
        UserError: the stage raises it.
        KeyboardInterrupt: on Ctrl-C; the same call goes on where it stopped.
    """
    with locked(stage.target):
        if stage.target.exists():
            if not quiet:
                print(f"{stage.name}: {stage.target} is there")
            stage.finish()
            return
        start = time.monotonic()
        try:
            stage.make()
        finally:
            clock.add(stage.name, time.monotonic() - start)
        stage.finish()
    gc.collect()  # a trainer and its dataset hold each other
    give_back_now()  # so that the next stage may have it
