"""Rooms import only from rooms before them, and quick commands stay quick."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# One way through the house; a file may import from files on earlier lines only.
ORDER = [
    "types doctor",
    "files returns config stats",
    "envs deaths",
    "dataset retrieved",
    "behaviour",
    "collect arrays",
    "reference",
    "transformer lengths",
    "encoders",
    "heads tokens team_batch",
    "factored",
    "fitting",
    "family_data",
    "embedding",
    "episode_data",
    "credit",
    "memory",
    "keys",
    "decision",
    "retrieval_data contexts",
    "context_value",
    "lockstep",
    "team baselines",
    "trained",
    "adapt",
    "report",
    "run",
    "table bench units",
    "bench_parts",
    "cluster",
    "benchmark check",
    "compare options",
    "cli",
    "__main__",
]
LEVEL = {name: level for level, line in enumerate(ORDER) for name in line.split()}


def imports(path: Path) -> set[str]:
    """Rooms of maicc that a file imports, also inside functions."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "maicc":
                names = [f"maicc.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("maicc.")}
    return rooms - {"__version__", "load_team"}


def files() -> list[tuple[str, Path]]:
    found = [(p.stem, p) for p in (ROOT / "maicc").glob("*.py") if p.stem != "__init__"]
    found += [("report", p) for p in (ROOT / "maicc" / "report").glob("*.py")]
    found += [("baselines", p) for p in (ROOT / "maicc" / "baselines").glob("*.py")]
    for room in ("envs", "memory"):
        found += [(room, p) for p in (ROOT / room).glob("*.py")]
    return found


@pytest.mark.parametrize(("room", "path"), files(), ids=lambda x: str(x).rsplit("/", 1)[-1])
def test_imports_point_one_way(room, path):
    for other in imports(path) - {room}:
        assert LEVEL[other] < LEVEL[room], f"{path.name} in {room} must not import {other}"


def test_memory_and_envs_know_nothing_of_each_other_nor_of_networks():
    for room, path in files():
        if room in ("envs", "memory"):
            assert imports(path) <= {room, "types"}
            assert "torch" not in path.read_text().split("import")[-1]


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["tasks"], ["tasks", "lbf_7x7"], ["report", "nowhere"], ["run", "--help"]],
)
def test_quick_commands_import_neither_torch_nor_lightning(arguments):
    code = (
        "import sys\n"
        "from maicc.cli import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'lightning', 'faiss'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
