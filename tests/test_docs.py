"""Documentation: prose ends by column 100, and relative links lead to files that are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "notes").glob("*.md")),
    *sorted((ROOT / "docs" / "families").glob("*.md")),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
UNBROKEN = re.compile(r"!\[.*\]\(.*\)|\S*https?://\S+|[-*] \S*https?://\S+")  # image or bare link


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Numbered lines outside fenced or indented code, tables, images and bare links."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not (fenced or line.startswith(("    ", "|")) or UNBROKEN.fullmatch(line.strip())):
            yield number, line


def test_prose_leaves_out_code_tables_and_images():
    text = "one\n```\ncode\n```\n    code\n| cell |\n![a picture](b.svg)\nhttps://c.d\n[e](f.md)"
    assert list(prose(text)) == [(1, "one"), (9, "[e](f.md)")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_ends_by_column_100(page):
    long = [number for number, line in prose(page.read_text()) if len(line) > 100]
    assert not long, f"{page.name}: lines {long} are longer than 100 columns"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_files(page):
    files = [link.split("#")[0] for link in LINK.findall(page.read_text()) if "://" not in link]
    missing = [name for name in files if name and not (page.parent / name).exists()]
    assert not missing, f"{page.name} links to {missing}"
