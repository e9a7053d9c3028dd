"""JAX, before it is used: the extra that brings it, and where it keeps what it compiles."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from maicc.types import UserError


@contextmanager
def needs_jaxmarl(who: str) -> Iterator[None]:
    """Sets JAX up, and names the extra where jax or jaxmarl is imported in vain.

    Raises:
        UserError: `who` needs a package that is not installed.
    """
    try:
        _keep_compiled()
        yield
    except ImportError as error:
        raise UserError(f'{who} needs jaxmarl ({error}): pip install "maicc[smax]"') from None


def _keep_compiled() -> None:
    """Lets JAX keep what it compiles on the disk, so that no other process compiles it again.

    A folder that the user has given to JAX stays (`JAX_COMPILATION_CACHE_DIR`). Where no folder can
    be made, nothing is kept.
    """
    import jax
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    config: Any = jax.config
    if config.jax_compilation_cache_dir is not None:
        return
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = caches / "maicc" / f"jax-{_kind_of_processor()}"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: nobody knows the home
        return
    if os.access(folder, os.W_OK):
        config.update("jax_compilation_cache_dir", str(folder))
        reset_cache()  # JAX looks for the folder once, and something may be compiled already


def _kind_of_processor() -> str:
    """Short name of what the processor can do: compiled code may not run on another kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        kind = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        kind = platform.processor()
    return hashlib.sha256(f"{platform.machine()} {kind}".encode()).hexdigest()[:8]
