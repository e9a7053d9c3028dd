"""Files that are written whole or not at all, arrays on disk, and the paths of a model's files."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from glob import escape
from io import BytesIO
from math import prod
from multiprocessing import current_process
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryFile, gettempdir
from typing import Any
from zipfile import is_zipfile

from filelock import FileLock, Timeout

from maicc.types import OutsideError, UserError

_PIECE = 2**26  # bytes of an array that are read at a time, for its digest


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
        """Names the files as `maicc run` does, for MAICC by default.

        Raises:
            UserError: it is no folder, but a file.
        """
        folder = Path(folder)
        if folder.is_file():
            raise UserError(f"{folder} is a file, expected the folder of a run")
        return cls(folder / "episodes.h5", {name: folder / f"{name}.ckpt" for name in fits})


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; on success it is flushed to disk and takes its name.

    The temporary name is another one each time, so that two processes may write one file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{token_hex(4)}.part")
    try:
        yield temporary
        with open(temporary, "rb+") as file:  # Windows flushes only what may be written
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        # a full disk names no file, and others the temporary one, which nobody knows
        named = {error.filename, error.filename2} - {None}
        if error.errno and (not named or str(temporary) in named):
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def require_new(path: Path, choose: str = "another --out") -> None:
    """Refuses a path that is taken.

    Raises:
        UserError: something is there.
    """
    if path.exists():
        raise UserError(f"{path} is there already; choose {choose}, or remove it")


def require_writable(path: str | Path) -> None:
    """Tries whether a file can be written, before the long work whose result it is to hold.

    Its folder is made, and what is at `path` stays as it is.

    Raises:
        OSError: it cannot; names the file.
    """
    path = Path(path)
    tried = path.with_name(f".{path.name}.{token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tried.touch()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    tried.unlink()


def same_file(source: str | Path, target: str | Path) -> None:
    """Makes `target` a hard link to a file, or a copy of it where there can be no link."""
    source, target = Path(source).resolve(), Path(target)  # a link to a symbolic link may dangle
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # on another disk, of another user, or on a file system without links
        with whole_file(target) as temporary:
            shutil.copyfile(source, temporary)


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Waits while another process makes `path`, and keeps others waiting inside the block.

    The other process may have made the file: look for it inside the block, not before. The lock is
    a hidden file beside `path`, and ends with the process that holds it. Where a folder cannot be
    written or its file system has no locks, there is no lock, and nobody waits.

    Raises:
        OutsideError: the other process is waiting for this one, see `_require_started`.
    """
    path = Path(path)
    lock = FileLock(  # the same one for each path, so that blocks may stand inside one another
        path.with_name(f".{path.name}.lock"), is_singleton=True, fallback_to_soft=False
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            _require_started(path)
            print(f"{path}: another process is making it; waiting")
            lock.acquire()
        for name in (path.name, f"{path.stem}.part"):
            for left in path.parent.glob(f".{escape(name)}.*.part"):  # by a process that was killed
                left.unlink(missing_ok=True)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            _say_unlocked(path.parent, error.strerror)
    try:
        yield
    finally:
        if lock.is_locked:
            lock.release()


def _require_started(path: Path) -> None:
    """Refuses to wait in a process that is being started, and runs its parent's script for that.

    The parent waits for it.

    Raises:
        OutsideError: the script reached this call in such a process.
    """
    if getattr(current_process(), "_inheriting", False):
        raise OutsideError(
            f"{path}: another process is making it, and this one is only being started: a script "
            "must call this under `if __name__ == '__main__':`"
        )


class RowsOnDisk:
    """A file without a name that holds an array; it is gone when nobody reads the array any more.

    Rows that are blank at their ends take no disk there.

    Args:
        folder: Folder of the file; the system's temporary one where this can't be written.
        shape: (rows, steps, ...).
        dtype: Kind of the numbers.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: Any) -> None:
        try:
            self.file = TemporaryFile(dir=folder)  # noqa: SIM115 - open while it is read
        except OSError:
            folder = Path(gettempdir())
            self.file = TemporaryFile(dir=folder)  # noqa: SIM115
        self.folder, self.shape, self.dtype = folder, shape, dtype

    def write(self, first: int, rows: Any, length: Iterable[int]) -> None:
        """Writes rows (n, steps, ...), the first steps of each, `length` (n,) of them.

        Raises:
            OSError: the disk is full.
        """
        with self._named():
            for i, (row, steps) in enumerate(zip(rows, length, strict=True)):
                self.file.seek((first + i) * row.nbytes)
                self.file.write(row[:steps].tobytes())

    def array(self) -> Any:
        """The array, which is read from the disk when it is asked for.

        Raises:
            OSError: the disk is full.
        """
        import numpy as np

        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        with self._named():
            self.file.truncate(int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize)
            self.file.flush()
        return np.memmap(self.file, self.dtype, "r", shape=self.shape)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Names the folder in an error, since the file has no name."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.folder)) from None


@contextmanager
def hdf5_to_write(path: str | Path) -> Iterator[Any]:
    """Gives an HDF5 file in memory, which is then written whole or not at all.

    HDF5 itself leaves the process broken where a disk is full, and needs locks that not every file
    system has.
    """
    import h5py

    image = BytesIO()
    with h5py.File(image, "w", libver="latest") as file:  # this one has checksums of its own parts
        yield file
    with whole_file(path) as temporary:
        temporary.write_bytes(image.getbuffer())


def store(group: Any, name: str, array: Any, **options: Any) -> None:
    """Writes an array to a group of an HDF5 file, with checksums of its numbers."""
    group.create_dataset(name, data=array, fletcher32=bool(array.size), **options)


def mapped(array: Any) -> Any:
    """An array of an HDF5 file that stays on disk until it is read, if it lies there in one piece.

    Else it is read now. Arrays that h5py writes by default lie in one piece.
    """
    import numpy as np

    offset = array.id.get_offset()
    if offset is None or not array.size:
        return array[()]
    return np.memmap(array.file.filename, array.dtype, "r", offset, array.shape)


def arrays_digest(file: Any) -> str:
    """SHA-256 of all arrays of an HDF5 file, which are read in pieces."""
    names: list[str] = []
    file.visit(names.append)
    return _digest((name, file[name]) for name in names if hasattr(file[name], "dtype"))


@contextmanager
def hdf5_to_read(path: str | Path, fix: str) -> Iterator[Any]:
    """Opens an HDF5 file to read.

    Args:
        fix: What to do where it is damaged.

    Raises:
        UserError: it is damaged, or another process has opened it to write.
    """
    import h5py

    try:
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            if "unable to lock file" not in str(error):
                raise
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise UserError(
                    f"{path}: open in another process, perhaps in a notebook, which may write to "
                    "it; close it there and give the same command again"
                ) from None
            file = h5py.File(path, "r", locking=False)  # a file system without locks
        with file:
            yield file
    except UserError:
        raise
    except PermissionError:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path)) from None
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: not a readable HDF5 file, perhaps cut short ({first_line(error)}); {fix}"
        ) from None


def write_arrays(path: str | Path, arrays: Mapping[str, Any], *, compressed: bool = False) -> None:
    """Writes arrays with a digest of them to an .npz file, whole or not at all."""
    import numpy as np

    write = np.savez_compressed if compressed else np.savez
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        write(file, digest=np.array(_digest(arrays.items())), **arrays)


def read_arrays(path: str | Path) -> dict[str, Any]:
    """Reads what `write_arrays` has written.

    Raises:
        UserError: it is missing or damaged.
    """
    import numpy as np

    try:
        if Path(path).exists() and not is_zipfile(path):  # NumPy's own words advise to load pickles
            raise ValueError("no .npz file")
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        if str(arrays.pop("digest")) != _digest(arrays.items()):
            raise ValueError("its arrays are not those that were written")
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # zipfile, zlib, NumPy's header and its parser: each its own
        raise UserError(f"{path}: damaged ({first_line(error)}); remove it") from None
    return arrays


def _digest(arrays: Iterable[tuple[str, Any]]) -> str:
    """SHA-256 of names, kinds, shapes and contents of arrays, in the order given."""
    digest = hashlib.sha256()
    for name, array in arrays:
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        if not array.shape:
            digest.update(array[()].tobytes())
            continue
        rows = max(_PIECE // max(array.dtype.itemsize * prod(array.shape[1:]), 1), 1)
        for first in range(0, len(array), rows):
            digest.update(array[first : first + rows].tobytes())
    return digest.hexdigest()


def first_line(error: BaseException) -> str:
    """The first line that an error says, or the name of its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@cache
def _say_unlocked(folder: Path, why: str) -> None:
    """Says once of each folder that it has no locks."""
    print(f"{folder}: no locks here ({why}); do not run two commands in it at the same time")


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, default=plain_number) + "\n")


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """Reads the rows of a fit's metrics.csv, each with the values that it has; none without a file.

    A row that was cut short by a kill is left out.
    """
    rows = []
    if Path(path).exists():
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            for row in csv.DictReader(file):
                with suppress(TypeError, ValueError):
                    rows.append({name: float(value) for name, value in row.items() if value != ""})
    return [row for row in rows if "step" in row]


def plain_number(value: Any) -> Any:
    """Turns one of numpy's numbers into Python's, for `json.dumps`."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{value!r} is no number")


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
