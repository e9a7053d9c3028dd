"""Benchmark units on a Ray cluster: cores of this machine, or machines that share a folder."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from importlib.util import find_spec
from typing import Any

from tqdm import tqdm

from maicc.experiments.fits import COLLECT
from maicc.experiments.units import Unit
from maicc.files import first_line
from maicc.types import OutsideError, UserError

_RETRIES = 5  # of a stage whose worker died


def require_ray() -> None:
    """Raises UserError where the extra is missing."""
    if find_spec("ray") is None:
        raise UserError('--cluster needs Ray: pip install "maicc[cluster]"')


def run_units(
    units: Sequence[Unit], address: str, threads: int, on_result: Callable[[], object]
) -> None:
    """Runs the units' stages, each as soon as its inputs exist; shared stages run once.

    All cores collect a dataset together.

    A stage whose worker dies is run again, and goes on from the state that the worker had saved.

    Args:
        units: Units without a result.
        address: `local`, for the cores of this machine, or the address of a Ray cluster. Its
            machines must see the benchmark's folder under the same path, and have this package and
            the task family installed.
        threads: Cores of a stage. Training and adaptation on `cuda` take one GPU as well; `auto` is
            `cuda` if this machine has it.
        on_result: Function that is called after each finished unit.

    Raises:
        UserError: Ray is missing, or there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    require_ray()
    import ray

    # A thread of its own lets Ray start undisturbed: an interruption waits until it can be shut
    # down, and Ray puts no handler of signals in the place of ours. The thread lives as long as
    # Ray, whose processes end with the thread that has started them.
    with ThreadPoolExecutor(1) as thread:
        connecting = thread.submit(_connect, ray, address)
        try:
            connecting.result()
            _run(ray, units, threads, on_result)
        finally:
            wait([connecting])
            ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    """Connects to a cluster, or starts one on this machine.

    Raises:
        UserError: there is no cluster at the address.
    """
    try:
        options: dict[str, Any] = {} if address == "local" else {"address": address}
        host, _, port = address.rpartition(":")
        if port.isdigit() and not host.startswith("ray:"):  # Ray itself waits for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        options |= {"log_to_driver": False, "logging_level": logging.ERROR}
        ray.init(include_dashboard=False, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"no Ray cluster at {address}: {error}") from None


def _run(ray: Any, units: Sequence[Unit], threads: int, on_result: Callable[[], object]) -> None:
    """Submits every stage, and waits for all of them on the cluster that `ray` is connected to."""
    from maicc.training.fit import resolve_device

    def maicc_stage(unit: Unit, number: int, *after: object) -> None:
        del after  # Ray starts a stage when what it needs is done
        unit.run(unit.stages(threads)[number], threads)

    def maicc_share(unit: Unit, number: int, of: int) -> None:
        unit.play_share(number, of)

    stage_task = ray.remote(num_cpus=threads, max_retries=_RETRIES)(maicc_stage)
    share_task = ray.remote(num_cpus=1, max_retries=_RETRIES)(maicc_share)
    most = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    if threads > most:
        raise UserError(f"--threads={threads}, and no machine of the cluster has more than {most}")
    cores = max(int(ray.cluster_resources().get("CPU", 1)), 1)
    started: dict[Any, Any] = {}
    shares: dict[Any, Unit] = {}
    for unit in units:
        after: list[Any] = []
        gpu = resolve_device(unit.config.device) == "cuda"
        for number, stage in enumerate(unit.stages(threads)):
            if stage.target not in started:
                if stage.name == COLLECT and not stage.target.exists():
                    collecting = unit.collecting
                    after = [share_task.remote(collecting, i, cores) for i in range(cores)]
                    shares |= dict.fromkeys(after, collecting)
                task = stage_task.options(num_gpus=int(gpu and stage.on_device))
                started[stage.target] = task.remote(unit, number, *after)
            after = [started[stage.target]]
    results = {started[unit.result] for unit in units}
    waiting = [*shares, *started.values()]
    with tqdm(desc="benchmark", unit="stage", total=len(waiting)) as bar:
        while waiting:
            (done,), waiting = ray.wait(waiting)
            try:
                ray.get(done)
            except ray.exceptions.RayTaskError as error:
                if done in shares and not isinstance(error.cause, OutsideError):
                    ray.shutdown()  # first, so that no other share plays on
                    shares[done].drop_shares()
                raise error.cause from None
            except ray.exceptions.RayError as error:
                raise UserError(
                    f"the Ray cluster broke off ({first_line(error)}); the same command goes on "
                    "where it stopped"
                ) from None
            bar.update()
            if done in results:
                on_result()
