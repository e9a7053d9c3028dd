"""What errors tell: the name that was meant, and the line of the user's code that failed."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from difflib import get_close_matches

from maicc.types import UserError


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Names what is most like an unknown word, for the end of a sentence; "" if nothing is."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.65)
    return f" (did you mean {near[0]}?)" if near else ""


def located(error: BaseException, caller: str = "") -> str:
    """Writes an error in one line, with its kind and place unless it is meant for the user.

    Args:
        caller: File of the code that called what failed, which is no place that the user can mend.
    """
    message = str(error).strip() or type(error).__name__
    if isinstance(error, UserError):
        return message
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != caller and not frame.filename.startswith("<frozen ")
    ]
    where = f" ({frames[-1].filename}:{frames[-1].lineno}, {frames[-1].name})" if frames else ""
    return f"{type(error).__name__}: {message}{where}"
