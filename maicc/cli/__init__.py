"""The commands that users type."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command `maicc`; commands.py lists them all."""
    from maicc.cli.commands import main as run

    run(arguments)
