"""Hooks of the documentation's site: README and its neighbours are pages of it too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).parent.parent
_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
}


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages at the top of the repository; the README is the first page."""
    for name, page in _PAGES.items():
        text = (_ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        text = text.replace("](README.md", "](index.md")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turns links to the README into links to the first page."""
    up = "../" * page.file.src_uri.count("/")
    return markdown.replace(f"](../{up}README.md", f"]({up}index.md")
