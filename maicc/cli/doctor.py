"""Check of what is installed and what is missing, with the command that puts each right."""

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
    """Verdict on one thing that may be installed."""

    name: str  # of the thing that is checked
    fine: bool
    state: str  # what is installed, or what is wrong
    fix: str  # a command, or what to do; empty where all is fine
    needed: bool  # by every run; False: by some task families only


def doctor() -> list[Finding]:
    """Checks folders, packages and games, in the order in which they are needed."""
    return [
        _links(),
        _faiss(),
        _package("lightning", 'pip install "maicc[cpu]"', needed=True),
        _package("torch", "pip install -c constraints.txt torch", needed=True),
        _device(),
        _package("ray", 'pip install "maicc[cluster]"'),
        _package("tensorboard", 'pip install "maicc[tensorboard]"'),
        _package("wandb", 'pip install "maicc[wandb]"'),
        _package("mlflow", 'pip install "maicc[mlflow]"'),
        _package("jaxmarl", 'pip install "maicc[smax]"'),
        _package("smacv2", _SMACV2),
        _package("pysc2", _PYSC2),
        _protobuf(),
        *_starcraft(),
    ]


def _links(package: Path = Path(__file__).parent.parent) -> Finding:
    """Checks that the links were not checked out as text files, as on Windows by default."""
    text = [name for name in ("envs", "memory", "configs") if (package / name).is_file()]
    if not text:
        return Finding("folders", True, "envs, memory and configs are there", "", True)
    links = " ".join(f"maicc/{name}" for name in text)
    fix = f"git config core.symlinks true, then git checkout -- {links} (Windows: developer mode)"
    return Finding("folders", False, f"{links}: text files in place of links", fix, True)


def _installed(name: str) -> str | None:
    """Finds the version of an installed package; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _package(name: str, fix: str, *, needed: bool = False) -> Finding:
    """Checks that a package is installed."""
    release = _installed(name)
    return Finding(name, release is not None, release or "not installed", fix, needed)


def _faiss() -> Finding:
    """Checks that exactly one of the packages that install faiss is installed."""
    names = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cu11")
    releases = {name: release for name in names if (release := _installed(name))}
    listed = ", ".join(f"{name} {release}" for name, release in releases.items())
    if len(releases) > 1:
        builds = " ".join(releases)
        fix = f'pip uninstall -y {builds}, then pip install "maicc[cpu]" or "maicc[gpu]"'
        return Finding("faiss", False, f"{listed}: they overwrite each other", fix, True)
    if "faiss-gpu-cu12" in releases or "faiss-gpu-cu11" in releases:
        listed += ": it has no code for GPUs such as the H100, faiss-gpu has"
    return Finding(
        "faiss", bool(releases), listed or "not installed", 'pip install "maicc[cpu]"', True
    )


def _device() -> Finding:
    """Names the GPU that torch sees."""
    if find_spec("torch") is None:
        return Finding("device", False, "no torch", "pip install -c constraints.txt torch", True)
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU only"
    return Finding("device", True, name, "", True)


def _protobuf() -> Finding:
    """Checks that pysc2 can use protobuf: an old release, or the implementation in Python."""
    mode = os.environ.get("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "")
    release = _installed("protobuf")
    if release is None:
        return Finding("protobuf mode", False, "protobuf not installed", _PYSC2, False)
    is_old = int(release.split(".")[0]) <= 3
    fix = "export PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python"
    state = f"protobuf {release}, implementation {mode or 'default'}"
    return Finding("protobuf mode", is_old or mode == "python", state, fix, False)


def _starcraft() -> Iterator[Finding]:
    """Checks the folder of StarCraft II, its binary and the maps of SMAC."""
    root = Path(os.environ.get("SC2PATH", os.path.expanduser("~/StarCraftII")))
    default = "" if "SC2PATH" in os.environ else " (the default)"
    yield Finding(
        "SC2PATH", root.is_dir(), f"{root}{default}"
        f"{'' if root.is_dir() else ', no such folder'}",
        "export SC2PATH=FOLDER_OF_STARCRAFT_II", False,
    )  # fmt: skip
    binaries = sorted(root.glob("Versions/Base*/SC2*"))
    yield Finding(
        "StarCraft II", bool(binaries), str(binaries[-1]) if binaries else "no game binary",
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
    """Prints the verdict.

    Returns:
        False if something that every run needs is missing.
    """
    for f in findings:
        mark = "ok     " if f.fine else "MISSING" if f.needed else "absent "
        write(f"{mark}  {f.name:14} {f.state}")
        if not f.fine:
            write(f"{'':25}{f.fix}")
    return all(f.fine for f in findings if f.needed)
