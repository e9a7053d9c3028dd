"""Markdown tables of results, and lists that explain their columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Writes the lines of a Markdown table: the head, a rule, and one line for each row."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return [lines[0], "|---" * len(head) + "|", *lines[1:]]


def markdown_legend(columns: Mapping[str, str]) -> list[str]:
    """Writes the lines of a Markdown list: what each column tells."""
    return [f"- *{name}*: {told}." for name, told in columns.items()]
