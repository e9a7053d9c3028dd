"""One tiny run of the whole pipeline, shared by the tests that need trained files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The models are tiny: more threads only wait for one another, above all on a busy machine.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest

from maicc.config import (
    CollectConfig,
    DecisionConfig,
    DecisionFit,
    EmbeddingConfig,
    EmbeddingFit,
    MaiccAdapt,
    MaiccRun,
    MemoryConfig,
)
from maicc.envs import registry
from maicc.experiments.units import with_overrides


def tiny_config(method: str = "maicc", **changes) -> Any:
    """A run of a method on small models, in seconds; MAICC retrieves, as in the paper.

    Args:
        changes: Replace whole sections.
    """
    small = {"width": 16, "layers": 2, "heads": 2}
    config = MaiccRun(
        family="lbf_7x7",
        seed=3,
        device="cpu",
        collect=CollectConfig(episodes=3, levels=[0.0, 1.0], workers=1),
        embedding=EmbeddingFit(model=EmbeddingConfig(**small), batch_size=4, steps=6),
        decision=DecisionFit(
            model=DecisionConfig(**small, k=3, record=0, labels="behaviour"), batch_size=8, steps=6
        ),
        adapt=MaiccAdapt(
            episodes=3, runs=2, training_runs=2, memory=MemoryConfig(schedule="evidence")
        ),
    )
    config = with_overrides(config, {"method": method})
    for name, value in changes.items():
        setattr(config, name, value)
    return config


@pytest.fixture(scope="module", autouse=True)
def registered_here() -> Iterator[None]:
    """Forgets the families that a module's tests register: no other module knows them."""
    before = dict(registry._registered)
    yield
    registry._registered.clear()
    registry._registered.update(before)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run with `tiny_config`; parallel workers make it once."""
    from maicc.experiments.run import run

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tiny" / "run"
    run(tiny_config(), folder)
    return folder


@pytest.fixture(scope="session")
def dataset(tiny_run: Path) -> Path:
    """Dataset of the run."""
    return tiny_run / "episodes.h5"
