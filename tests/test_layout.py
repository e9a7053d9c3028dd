"""Folders import only from folders before them, and quick commands stay quick."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# The way through the project: a folder imports from those on earlier lines and from itself.
ORDER = [
    "types errors schema config files streams heap",
    "envs memory configs",
    "data",
    "models",
    "training teams",
    "baselines",
    "evaluation",
    "report",
    "experiments",
    "cli",
    "__main__",
]
LEVEL = {name: level for level, line in enumerate(ORDER) for name in line.split()}
SHARED = set(ORDER[0].split())
HEAVY = {"torch", "lightning", "faiss"}
QUICK = ("types", "schema", "config", "files", "envs", "report", "cli")  # may not need torch


def parts() -> list[tuple[str, Path]]:
    """Every file of the package with the folder, or shared file, that it belongs to."""
    package = ROOT / "maicc"
    inside = [path for part in package.iterdir() if part.is_dir() for path in part.rglob("*.py")]
    named = [(path.relative_to(package).parts[0], path) for path in inside]
    return named + [(p.stem, p) for p in package.glob("*.py") if p.stem != "__init__"]


def imports(path: Path, *, lazy: bool = True) -> set[str]:
    """Modules that a file imports; without `lazy` only those that are imported with it."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if lazy else iter(_at_import(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def _at_import(tree: ast.AST) -> list[ast.AST]:
    """Nodes outside functions and outside `if TYPE_CHECKING`."""
    found: list[ast.AST] = []
    for node in ast.iter_child_nodes(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if not isinstance(node, ast.FunctionDef) and not typing_only:
            found += [node, *_at_import(node)]
    return found


def folders(path: Path) -> set[str]:
    """Folders and shared files of maicc that a file imports, also inside functions."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("maicc.")} & set(LEVEL)


@pytest.mark.parametrize(("part", "path"), parts(), ids=lambda x: str(x).rsplit("/maicc/", 1)[-1])
def test_imports_point_one_way(part, path):
    assert part in LEVEL, f"{part} has no place in the order"
    for other in folders(path) - {part}:
        assert LEVEL[other] < LEVEL[part] or (part in SHARED and other in SHARED), (
            f"{path.name} in {part} must not import {other}"
        )


def test_files_of_a_folder_import_one_another_in_no_circle():
    graph: dict[str, set[str]] = {}
    for part, path in parts():
        if path.stem != "__init__":
            name = ".".join(["maicc", *path.relative_to(ROOT / "maicc").with_suffix("").parts])
            graph[name] = {
                other for found in imports(path) for other in (found, found.rpartition(".")[0])
            }
            assert part in LEVEL
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above, name])
        if name not in done:
            for other in graph[name] & set(graph):
                if other != name:
                    visit(other, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_memory_is_handed_vectors_and_models_read_no_files():
    for part, path in parts():
        heavy = {name.split(".")[0] for name in imports(path)} & HEAVY
        if part in ("envs", "memory"):
            listed = {"files"} if part == "envs" else set()  # a family may list its tasks in a file
            assert folders(path) <= {part, "types", "errors", "streams"} | listed, path
            assert not heavy - {"faiss"}, path
        if part == "models":
            assert "lightning" not in heavy, path
            assert not folders(path) & {"files", "envs", "memory"}, path


def test_quick_parts_import_nothing_heavy_by_themselves():
    for part, path in parts():
        if part in QUICK:
            assert not {n.split(".")[0] for n in imports(path, lazy=False)} & HEAVY, path


@pytest.mark.slow
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
        f"heavy = {HEAVY!r} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
