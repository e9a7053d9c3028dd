"""Files that are written whole or not at all, and the paths of a model's files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maicc.types import UserError


@dataclass(frozen=True)
class ModelFiles:
    """Paths of a dataset and of the checkpoints made from it; keys lie beside the embedding.

    Args:
        episodes: The dataset.
        checkpoints: Path of each checkpoint, by the name of the fit that makes it.
    """

    episodes: Path
    checkpoints: Mapping[str, Path]

    def __getitem__(self, fit: str) -> Path:
        return self.checkpoints[fit]

    @classmethod
    def in_folder(
        cls, folder: str | Path, fits: Iterable[str] = ("embedding", "decision")
    ) -> ModelFiles:
        """Names the files as `maicc run` does, for MAICC by default."""
        folder = Path(folder)
        return cls(folder / "episodes.h5", {name: folder / f"{name}.ckpt" for name in fits})


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; on success it is flushed to disk and takes its name."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Waits while another process makes `path`, and keeps others waiting inside the block.

    The other process may have made the file: look for it inside the block, not before. The lock is
    a hidden file beside `path`, and ends with the process that holds it. In a folder that cannot be
    written there is no lock, and nobody waits.
    """
    import fcntl

    path, lock = Path(path), None
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.with_name(f".{path.name}.lock"), "a")  # noqa: SIM115 - closed below
    if lock is None:
        yield
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{path}: another process is making it; waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: str | Path) -> Any:
    """Reads a JSON file.

    Raises:
        UserError: the file is missing or holds no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not a JSON file ({error}); remove it and make it again") from None
