from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from maicc.experiments.benchmark import benchmark
from maicc.experiments.cluster import run_units
from maicc.experiments.proof import prove
from maicc.types import UserError
from tests.conftest import tiny_config

pytestmark = pytest.mark.slow

pytest.importorskip("ray", reason="the extra `cluster` is not installed")

VARIANTS = {
    "default": {},
    "no_context": {"decision.model.k": 0},
}


def kill_a_worker(killed: list[int], enough: threading.Event) -> None:
    """Kills the first process that is working on a stage."""
    while not killed and not enough.is_set():
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                busy = path.read_bytes().startswith(b"ray::maicc_stage")
            except OSError:
                continue
            if busy:
                os.kill(int(path.parent.name), signal.SIGKILL)
                killed.append(int(path.parent.name))
                break
        time.sleep(0.02)


def test_a_cluster_that_loses_a_worker_gives_the_table_of_one_process(tmp_path):
    config = tiny_config()
    alone = benchmark(config, VARIANTS, seeds=1, tasks=2, out=tmp_path / "alone")
    killed, enough = [], threading.Event()
    killer = threading.Thread(target=kill_a_worker, args=(killed, enough))
    killer.start()
    together = benchmark(
        config, VARIANTS, seeds=1, tasks=2, out=tmp_path / "together", cluster="local"
    )
    enough.set()
    killer.join()
    assert killed
    assert together == alone
    names = [
        sorted(p.relative_to(tmp_path / d) for p in (tmp_path / d).rglob("*.json"))
        for d in ("alone", "together")
    ]
    assert names[0] == names[1]


def test_a_cluster_of_two_machines_goes_on_when_one_is_lost(tmp_path, monkeypatch):
    """Two raylets stand for two machines; one is lost while episodes are collected."""
    from ray.cluster_utils import Cluster

    config = tiny_config()
    config.collect.episodes = 40
    variants = {"no_context": VARIANTS["no_context"]}
    alone = benchmark(config, variants, seeds=1, tasks=2, out=tmp_path / "alone")
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        other = machines.add_node(num_cpus=1)
        machines.wait_for_nodes()
        shares: list[int] = []

        def lose_one() -> None:
            folder = tmp_path / "together"
            while len(parts := list(folder.rglob("*-behaviour*.npz"))) < 3:
                time.sleep(0.01)
            shares.append(len(parts))
            machines.remove_node(other, allow_graceful=False)

        loser = threading.Thread(target=lose_one, daemon=True)
        loser.start()
        together = benchmark(
            config, variants, seeds=1, tasks=2, out=tmp_path / "together",
            cluster=machines.address,
        )  # fmt: skip
        loser.join(60)
        assert shares
        assert shares[0] < 20  # in the middle of it
    finally:
        machines.shutdown()
    assert together == alone


def test_more_threads_than_any_machine_has_are_refused(tmp_path):
    options = {"seeds": 1, "tasks": 1, "out": tmp_path, "cluster": "local"}
    with pytest.raises(UserError, match="--threads=999, and no machine of the cluster has more"):
        benchmark(tiny_config(), VARIANTS, threads=999, **options)


def test_no_cluster_at_the_address():
    with pytest.raises(UserError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        run_units([], "127.0.0.1:1", 1, lambda: None)


def test_without_ray_the_extra_is_named_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr("maicc.experiments.cluster.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "maicc\[cluster\]"'):
        benchmark(tiny_config(), VARIANTS, seeds=1, tasks=1, out=tmp_path / "out", cluster="local")
    assert not (tmp_path / "out").exists()


def test_a_proof_on_a_cluster_is_that_of_one_process(tmp_path):
    """The oracle's dataset is made of one that the cluster has collected together."""
    config = tiny_config()
    config.decision.model.k, config.decision.model.labels = 0, "expert"
    options = {"variants": {"default": {}}, "seeds": 1, "tasks": 2}
    alone = prove(config, out=tmp_path / "alone", **options)
    assert prove(config, out=tmp_path / "together", cluster="local", **options) == alone
