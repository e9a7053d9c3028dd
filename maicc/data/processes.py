"""Processes side by side that play a family's tasks, or this process alone."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from multiprocessing import get_context, parent_process
from typing import Any

from maicc.envs import TaskFamily, get_family, importable
from maicc.types import OutsideError, UserError

# calls a function with the family and with each of many arguments, and gives what it returns
PlayEach = Callable[[Callable[..., Any], Iterable[Any]], Iterator[Any]]


@contextmanager
def processes(family: TaskFamily, workers: int) -> Iterator[PlayEach]:
    """Gives a function that calls others in processes side by side, or in this one.

    What is played elsewhere leaves nothing behind in the memory of this process. Processes are
    started when there are several calls to make.

    Args:
        workers: Number of processes, 0 for one on every core that this process may use.

    Raises:
        OutsideError: processes can't be started, or one has ended.
    """
    workers = workers or _cores()
    here = in_this_process(family)
    if workers == 1 or not importable(family):  # another process would not find the family
        yield here
        return
    with ExitStack() as stack:

        @cache
        def pool() -> ProcessPoolExecutor:
            return stack.enter_context(_pool(workers))

        def play_each(call: Callable[..., Any], each: Iterable[Any]) -> Iterator[Any]:
            each = list(each)
            if len(each) < 2:
                return here(call, each)
            rosters = tuple(map(tuple, family.rosters()))
            return pool().map(partial(_call, call, family.name, rosters), each)

        yield play_each


def in_this_process(family: TaskFamily) -> PlayEach:
    """Makes a function that calls others with the family, in this process."""
    return lambda call, each: map(partial(call, family), each)


def _call(
    call: Callable[..., Any], name: str, rosters: tuple[tuple[str, ...], ...], argument: Any
) -> Any:
    """Calls a function with the family of that name, which must have these rosters here.

    Raises:
        RuntimeError: the function raises an exception of a class that is neither Python's nor ours,
            which may not survive the way to another process.
    """
    try:
        return call(_same_family(name, rosters), argument)
    except Exception as error:
        if isinstance(error, UserError) or type(error).__module__ == "builtins":
            raise
        raise RuntimeError("".join(traceback.format_exception(error))) from None


@cache
def _same_family(name: str, rosters: tuple[tuple[str, ...], ...]) -> TaskFamily:
    """Finds a family, whose agents must be in the same order as in the process that asks."""
    family = get_family(name)
    family.require_rosters(rosters)
    return family


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Gives processes, which end when the block does, or this process, however it ends.

    Raises:
        UserError: they can't be started.
    """
    fix = "set collect.workers=1"
    try:
        # spawn: a forked child would inherit locks of whatever threads the parent runs
        pool = ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=_end_with_parent
        )
    except (OSError, ImportError) as error:
        raise OutsideError(
            f"processes side by side need shared memory, which is /dev/shm on Linux ({error}); "
            f"make it larger and writable, or {fix}"
        ) from None
    try:
        yield pool
    except BrokenProcessPool:
        raise OutsideError(
            "a process that collects has ended: a script must call this under "
            "`if __name__ == '__main__':` and not come from stdin; or the process was killed, "
            f"perhaps for want of memory; or {fix}"
        ) from None
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()  # units that are finished are kept
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Makes a worker end with its parent, also a killed one, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _cores() -> int:
    """Counts the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
