"""The process of `python -m maicc` and of the installed command `maicc`."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from maicc.cli import main


def process() -> None:
    """Runs the command, and ends the process at once where the user has interrupted it.

    By then the command has put its files in order, but threads of JAX may still be at work. Python
    takes down what they use as it ends, and the process would die of that in place of code 130.
    """
    try:
        main()
    except SystemExit as end:
        if end.code != 130:
            raise
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # who reads it may have been interrupted too
                stream.flush()
        os._exit(130)


if __name__ == "__main__":
    process()
