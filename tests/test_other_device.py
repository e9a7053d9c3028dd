"""Models train and act alike on the CPU and on a device whose tensors are apart from the CPU's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from lightning.fabric.utilities import move_data_to_device

from maicc.baselines import METHODS as ALL
from maicc.baselines.trained import TrainedMAICC
from maicc.config import MaiccAdapt, MemoryConfig
from maicc.experiments.fits import fit_model
from maicc.files import ModelFiles
from maicc.models.matrix_search import MatrixSearch
from maicc.training.fit import seeded
from maicc.types import ObsLayout
from tests.conftest import tiny_config
from tests.other_device import other_device
from tests.rivals import FAMILY, METHODS, make_for
from tests.teams import untrained

LAYOUT = ObsLayout(own=(2, 2), allies=(4, 2, 2), enemies=(0, 1, 2), attack=5)
WITH_LAYOUT = dataclasses.replace(FAMILY.spec, layout=LAYOUT)


def test_what_an_accelerator_refuses_is_refused():
    with other_device() as device:
        there, here = torch.ones(3, device=device), torch.arange(3)
        assert (there + 1).cpu().tolist() == [2, 2, 2] == (there + torch.tensor(1)).cpu().tolist()
        assert there[here].device == there.to(device).device == torch.device(device)
        for refused in (
            lambda: there + here,
            lambda: here[there.long()],
            lambda: there.index_select(0, here),
            lambda: there.numpy(),
            lambda: torch.cat([there, torch.ones(3)]),
        ):
            with pytest.raises(RuntimeError):
                refused()


def play(team, episodes: int = 3) -> list[np.ndarray]:
    """What a team of two runs does on made-up observations; the runs end one after the other."""
    rng, played = np.random.default_rng(0), []
    legal = np.ones((2, 3, 6), bool)
    for _ in range(episodes):
        for t in range(5):
            seen = rng.random((2, 3, 8)).astype(np.float32)
            played.append(team.act(seen, legal))
            team.observe(played[-1], rng.random(2) / 4, np.array([t >= 2, t >= 4]))
    return played


def check_alike(make_team) -> None:
    """Asserts that a team acts on the other device as on the CPU."""
    expected = play(make_team("cpu"))
    with other_device() as device:
        assert np.array_equal(play(make_team(device)), expected)


@pytest.mark.parametrize("encoder", ["flat", "fourier", "entities"])
@pytest.mark.parametrize("method", METHODS)
def test_teams_of_rivals(method, encoder):
    spec = WITH_LAYOUT if encoder == "entities" else FAMILY.spec
    window = {"window": 3} if method == "radt" else {}
    check_alike(
        lambda device: make_for(method, spec, encoder=encoder, **window).team(
            [5, 6], 10, device=device
        )
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"record": 2},
        {"record": 2, "k": 3},
        {"k": 3},
        {"k": 3, "tokens": "four"},
        {"k": 3, "context": "concatenated"},
        {"record": 2, "encoder": "entities"},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())),
)
def test_teams_of_maicc(changes, tiny_run):
    def make(device):
        models = TrainedMAICC(ModelFiles.in_folder(tiny_run), FAMILY.spec, "cpu")
        if "encoder" in changes:
            models.spec = WITH_LAYOUT
        models.decision, models.device = untrained(models.spec, **changes), device
        return models.team([5, 6], MaiccAdapt(10, memory=MemoryConfig(schedule="evidence")))

    check_alike(make)


FITS = [
    *((method, fit, {}) for method in METHODS for fit in ALL[method].fits),
    *((method, "decision", {"hidden_weight": 1.0}) for method in ("at", "ad", "dpt")),
    *(("maicc", fit, {}) for fit in ("embedding", "decision")),
    ("maicc", "decision", {"record": 2}),
    ("maicc", "decision", {"record": 2, "k": 0, "labels": "expert", "hidden_weight": 1.0}),
    ("maicc", "decision", {"tokens": "four", "context": "concatenated"}),
    ("maicc", "embedding", {"attention": "factored", "return_to_go": True}),
    ("maicc", "embedding", {"teacher": False, "credit": "local"}),
]


@pytest.mark.parametrize("encoder", ["fourier", "entities"])
@pytest.mark.parametrize(("method", "fit", "changes"), FITS)
def test_losses_and_their_gradients(method, fit, changes, encoder, tiny_run, tmp_path):
    config = tiny_config(method=method)
    section = getattr(config, ALL[method].reads(fit)[0])
    if changes:
        section.model = dataclasses.replace(section.model, **changes)
    files = ModelFiles.in_folder(tiny_run)
    if (method, fit) == ("radt", "decision"):  # its batches are of what it retrieves
        config.retriever.steps = 1
        files = ModelFiles(files.episodes, {"retriever": tmp_path / "retriever.ckpt"})
        fit_model("retriever", config, files)
    module, model, data = ALL[method].prepare(fit, config, files)
    data.setup("fit")
    batch = next(data.batches(0))
    spec = data.spec
    if hasattr(model, "encoder"):
        model = dataclasses.replace(model, encoder=encoder)
        spec = dataclasses.replace(spec, layout=LAYOUT if encoder == "entities" else None)

    def losses(device):
        with seeded(1):
            made = module(spec, model).to(device)
        found = made.losses(move_data_to_device(batch, device))
        found["loss"].backward()
        grads = [p.grad.cpu() for p in made.parameters() if p.grad is not None]
        return {name: float(loss.detach()) for name, loss in found.items()}, grads

    expected, gradients = losses("cpu")
    with other_device() as device:
        found, grads = losses(device)
    assert found == pytest.approx(expected, abs=1e-5)
    for grad, gradient in zip(grads, gradients, strict=True):
        assert torch.allclose(grad, gradient, atol=1e-5)


def test_search():
    rng = np.random.default_rng(0)
    keys, queries = (rng.normal(size=(n, 8)).astype(np.float32) for n in (40, 5))
    expected = MatrixSearch(keys, "cpu").search(queries, 6)
    with other_device() as device:
        found = MatrixSearch(keys, device).search(queries, 6)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
