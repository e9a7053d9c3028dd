"""Memory that glibc keeps after it was freed. Other C libraries are left alone."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_M_MMAP_THRESHOLD, _LARGE = -3, 2**20  # an option of mallopt, and bytes


def give_back_large_arrays() -> None:
    """Gives arrays of a MiB or more back to the system as soon as they are free, from now on.

    By default they are kept for later ones. As each batch has another size, these do not fit into
    the gaps, and the memory of a fit grows with its steps.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(_M_MMAP_THRESHOLD, _LARGE)


def give_back_now() -> None:
    """Gives back what is free and still kept."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
