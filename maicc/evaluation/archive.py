"""One file that holds other files, each with its SHA-256: a zip without compression.

It is written whole or not at all. What is read of it is what was written, or it is refused. Without
compression a small file cannot unpack to a large one, and the same content has the same bytes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from maicc import __version__
from maicc.files import first_line, whole_file
from maicc.types import UserError

SCHEMA = 1
MANIFEST = "bundle.json"  # schema, version of maicc, and the SHA-256 of every other file
_NAME = re.compile(r"[a-z0-9_]+\.(json|md|h5|safetensors)")
_BLOCK = 1 << 20


def write_archive(path: Path, members: Mapping[str, Path | str]) -> None:
    """Writes the archive.

    Args:
        members: Content of each file, by its name: the path of a file to copy, or a text.
    """
    sums = {name: _copy(_source(member)) for name, member in members.items()}
    manifest = {"schema": SCHEMA, "maicc": __version__, "files": sums}
    every = {MANIFEST: json.dumps(manifest, indent=1) + "\n", **members}
    with whole_file(path) as temporary, ZipFile(temporary, "w", ZIP_STORED) as archive:
        for name, member in every.items():
            info = ZipInfo(name)  # always of the same date
            info.create_system, info.external_attr = 3, 0o644 << 16
            with _source(member) as source:
                info.file_size = source.seek(0, 2)
            with archive.open(info, "w") as target:
                _copy(_source(member), target)


def read_json_member(path: Path, name: str) -> Any:
    """Reads a JSON file of the archive.

    Raises:
        UserError: the archive is damaged, or no such archive.
    """
    with _opened(path) as (archive, sums):
        content = BytesIO()
        _take(archive, name, sums[name], content)
        return json.loads(content.getvalue())


def unpack(path: Path, folder: Path) -> None:
    """Writes all files of the archive into a folder.

    Raises:
        UserError: the archive is damaged, or no such archive.
    """
    with _opened(path) as (archive, sums):
        for name, expected in sums.items():
            with open(folder / name, "wb") as target:
                _take(archive, name, expected, target)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[ZipFile, dict[str, str]]]:
    """Opens an archive to read, and gives the SHA-256 of each of its files."""
    try:
        with ZipFile(path) as archive:
            yield archive, _sums(path, archive)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # zipfile, zlib, struct and json: each its own
        # a damaged archive may point before its own beginning
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise UserError(
            f"{path}: damaged, or no bundle of maicc ({first_line(error)}); get it once more, or "
            "make it anew with `maicc bundle`"
        ) from None


def _sums(path: Path, archive: ZipFile) -> dict[str, str]:
    """Reads the SHA-256 of each file, and checks that these files are there and no others.

    Raises:
        UserError: it is another kind of archive, or of another schema.
        ValueError: it is damaged.
    """
    infos = archive.infolist()
    if MANIFEST not in archive.namelist():
        raise UserError(
            f"{path}: no bundle of maicc, since it holds no {MANIFEST}; `maicc bundle` makes one "
            "of a run's folder"
        )
    stored = all(info.compress_type == ZIP_STORED for info in infos)
    if not stored or sum(info.file_size for info in infos) > path.stat().st_size:
        raise ValueError("its files are compressed or lie inside one another")
    manifest: Any = json.loads(archive.read(MANIFEST))
    if manifest["schema"] != SCHEMA:
        raise UserError(
            f"{path}: a bundle of schema {manifest['schema']!r:.20}, this version of maicc reads "
            f"schema {SCHEMA}; use the version that wrote it, {manifest.get('maicc')!r:.20}"
        )
    sums: dict[str, str] = manifest["files"]
    if sorted(info.filename for info in infos) != sorted([MANIFEST, *sums]):
        raise ValueError("its files are not those that it lists")
    for name in sums:
        if not _NAME.fullmatch(name):  # a path could lead out of the folder
            raise ValueError(f"a file named {name!r:.40}")
    return sums


def _take(archive: ZipFile, name: str, expected: str, target: IO[bytes]) -> None:
    """Copies a file out of the archive.

    Raises:
        ValueError: it is not what was written.
    """
    if _copy(archive.open(name), target) != expected:
        raise ValueError(f"checksum of {name}")


def _source(member: Path | str) -> IO[bytes]:
    return open(member, "rb") if isinstance(member, Path) else BytesIO(member.encode())


def _copy(source: IO[bytes], target: IO[bytes] | None = None) -> str:
    """Copies `source`, or only reads it, closes it, and gives its SHA-256."""
    digest = hashlib.sha256()
    with source:
        while block := source.read(_BLOCK):
            digest.update(block)
            if target is not None:
                target.write(block)
    return digest.hexdigest()
