"""What is installed and what is missing, each with the command that puts it right."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

_SMACV2 = "pip install --no-deps git+https://github.com/oxwhirl/smacv2"
_PYSC2 = 'pip install "maicc[smac]"'


class Finding(NamedTuple):
    """One line of the verdict."""

    name: str
    fine: bool
    found: str
    fix: str  # a command, or what to do; empty where all is fine
    needed: bool  # False: for some task families only


def doctor() -> list[Finding]:
    """Looks at everything, in the order in which it is needed."""
    return [
        _links(),
        _faiss(),
        _package("lightning", 'pip install "maicc[cpu]"', needed=True),
        _package("torch", "pip install -c constraints.txt torch", needed=True),
        _device(),
        _package("ray", 'pip install "maicc[cluster]"'),
        _package("jaxmarl", 'pip install "maicc[smax]"'),
        _package("smacv2", _SMACV2),
        _package("pysc2", _PYSC2),
        _protobuf(),
        *_starcraft(),
    ]


def _links(package: Path = Path(__file__).parent.parent) -> Finding:
    """Looks for links that were checked out as text files, as on Windows by default."""
    text = [name for name in ("envs", "memory", "configs") if (package / name).is_file()]
    if not text:
        return Finding("folders", True, "envs, memory and configs are there", "", True)
    links = " ".join(f"maicc/{name}" for name in text)
    fix = f"git config core.symlinks true, then git checkout -- {links} (Windows: developer mode)"
    return Finding("folders", False, f"{links}: text files in place of links", fix, True)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _package(name: str, fix: str, *, needed: bool = False) -> Finding:
    found = _installed(name)
    return Finding(name, found is not None, found or "not installed", fix, needed)


def _faiss() -> Finding:
    here = {
        n: _installed(n) for n in ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cu11")
    }
    here = {name: found for name, found in here.items() if found}
    listed = ", ".join(f"{name} {found}" for name, found in here.items())
    if len(here) > 1:
        fix = f'pip uninstall -y {" ".join(here)}, then pip install "maicc[cpu]" or "maicc[gpu]"'
        return Finding("faiss", False, f"{listed}: they overwrite each other", fix, True)
    return Finding("faiss", bool(here), listed or "not installed", 'pip install "maicc[cpu]"', True)


def _device() -> Finding:
    if find_spec("torch") is None:
        return Finding("device", False, "no torch", "pip install -c constraints.txt torch", True)
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU only"
    return Finding("device", True, name, "", True)


def _protobuf() -> Finding:
    mode = os.environ.get("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "")
    found = _installed("protobuf")
    if found is None:
        return Finding("protobuf mode", False, "protobuf not installed", _PYSC2, False)
    old = int(found.split(".")[0]) <= 3
    fix = "export PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python"
    state = f"protobuf {found}, implementation {mode or 'default'}"
    return Finding("protobuf mode", old or mode == "python", state, fix, False)


def _starcraft() -> Iterator[Finding]:
    root = Path(os.environ.get("SC2PATH", Path.home() / "StarCraftII"))
    given = "SC2PATH" in os.environ
    yield Finding(
        "SC2PATH", root.is_dir(), f"{root}{'' if given else ' (the default)'}"
        f"{'' if root.is_dir() else ', no such folder'}",
        "export SC2PATH=FOLDER_OF_STARCRAFT_II", False,
    )  # fmt: skip
    found = sorted(root.glob("Versions/Base*/SC2*"))
    yield Finding(
        "StarCraft II", bool(found), str(found[-1]) if found else "no game binary",
        "download version 4.10 from https://github.com/Blizzard/s2client-proto and unpack it into "
        f"{root}", False,
    )  # fmt: skip
    maps = [f"10gen_{race}.SC2Map" for race in ("protoss", "terran", "zerg")]
    missing = [name for name in maps if not (root / "Maps" / "SMAC_Maps" / name).is_file()]
    yield Finding(
        "SMAC maps", not missing, f"no {', '.join(missing)}" if missing else ", ".join(maps),
        "unpack SMAC_Maps.zip of https://github.com/oxwhirl/smacv2/releases into "
        f"{root / 'Maps'}", False,
    )  # fmt: skip


def report(findings: list[Finding], write: Callable[[str], object] = print) -> bool:
    """Prints the verdict; False where something that every run needs is missing."""
    for f in findings:
        mark = "ok     " if f.fine else "MISSING" if f.needed else "absent "
        write(f"{mark}  {f.name:14} {f.found}")
        if not f.fine:
            write(f"{'':25}{f.fix}")
    return all(f.fine for f in findings if f.needed)
