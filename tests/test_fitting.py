from __future__ import annotations

import pickle
import platform
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from maicc.baselines import method_of
from maicc.baselines.dpt import DPTModule
from maicc.config import OptimiserConfig
from maicc.envs import get_family
from maicc.experiments.fits import fit_model
from maicc.files import ModelFiles
from maicc.training.checkpoints import load_module, weights_hash
from maicc.training.episode_data import EpisodeData
from maicc.training.fit import Progress, Resumable, fit, seeded
from maicc.training.modules import DecisionModule, EmbeddingModule, MaiccModule
from maicc.training.retrieval_data import RetrievalData
from maicc.types import UserError
from tests.conftest import tiny_config


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_an_interrupted_fit_equals_an_unbroken_one(tiny_run, tmp_path, monkeypatch, dropout):
    config = tiny_config()
    config.embedding.model.dropout = dropout
    config.embedding.steps = 9

    def train(path):
        fit_model("embedding", config, ModelFiles(tiny_run / "episodes.h5", {"embedding": path}))

    train(tmp_path / "whole.ckpt")

    real = Resumable.on_train_batch_end

    def ctrl_c(self, trainer, *rest):
        self.interrupted = trainer.global_step in (2, 5)
        real(self, trainer, *rest)

    monkeypatch.setattr(Resumable, "on_train_batch_end", ctrl_c)
    path = tmp_path / "broken.ckpt"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(path)
        assert not path.exists()
    train(path)
    assert [p.name for p in tmp_path.glob("*.part.ckpt")] == []
    nets = [load_module(p, EmbeddingModule) for p in (path, tmp_path / "whole.ckpt")]
    assert weights_hash(nets[0]) == weights_hash(nets[1])


def test_the_seed_gives_the_weights():
    spec, hashes = get_family("lbf_7x7").spec, []
    state = torch.get_rng_state()
    for seed in (1, 1, 2):
        with seeded(seed):
            hashes.append(weights_hash(DecisionModule(spec)))
    assert hashes[0] == hashes[1] != hashes[2]
    assert torch.equal(state, torch.get_rng_state())


def test_one_cycle_needs_the_length_of_the_fit(tiny_run, tmp_path):
    data = EpisodeData("lbf_7x7", str(tiny_run / "episodes.h5"))
    with pytest.raises(UserError, match=r"set trainer\.max_steps"):
        fit(EmbeddingModule(data.spec), data, tmp_path / "x.ckpt", -1, "cpu", "x")


def test_a_model_needs_a_spec():
    with pytest.raises(UserError, match="needs the spec of its task family"):
        DecisionModule()


def test_data_and_model_must_agree_on_k(tiny_run, tmp_path):
    files = ModelFiles.in_folder(tiny_run)
    data = RetrievalData("lbf_7x7", str(files.episodes), str(files["embedding"]), k=2)
    with pytest.raises(UserError, match="the data module retrieves k=2 trajectories"):
        fit(DecisionModule(data.spec), data, tmp_path / "x.ckpt", 5, "cpu", "x")


def test_refused_checkpoints(tiny_run, tmp_path):
    def load(path, **kwargs):
        return load_module(path, EmbeddingModule, **kwargs)

    with pytest.raises(UserError, match="no such checkpoint"):
        load(tmp_path / "none.ckpt")
    with pytest.raises(UserError, match="holds decision, expected embedding"):
        load(tiny_run / "decision.ckpt")
    with pytest.raises(UserError, match="train one for this family"):
        load(tiny_run / "embedding.ckpt", spec=get_family("lbf_9x9").spec)
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes((tiny_run / "embedding.ckpt").read_bytes()[:5000])
    with pytest.raises(UserError, match="not a readable checkpoint"):
        load(cut)


def test_no_pickle_is_ever_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "went off"), "w"))

    for save in (
        lambda path: torch.save({"maicc": Bomb()}, path),
        lambda path: path.write_bytes(pickle.dumps(Bomb())),
    ):
        save(tmp_path / "bomb.ckpt")
        with pytest.raises(UserError, match="not a readable checkpoint"):
            load_module(tmp_path / "bomb.ckpt", DecisionModule)
    assert not (tmp_path / "went off").exists()


@pytest.mark.parametrize("method", ["maicc", "dpt"])
def test_chance_in_a_step_follows_from_the_datas_seed(tiny_run, tmp_path, monkeypatch, method):
    """Of MAICC's modules and of a rival's, which draws in its training steps."""
    config, seeds = tiny_config(method), []
    config.decision.steps = 2
    files = ModelFiles.in_folder(tiny_run)
    files = ModelFiles(files.episodes, {**files.checkpoints, "decision": tmp_path / "x.ckpt"})
    real = MaiccModule.on_train_batch_start

    def note(self, batch, batch_index):
        seeds.append((self.data_seed, self.step_seed()))
        real(self, batch, batch_index)

    monkeypatch.setattr(MaiccModule, "on_train_batch_start", note)
    fit_model("decision", config, files)
    assert seeds == [(3, 3_000_000_021 + step) for step in range(2)]


@pytest.mark.parametrize(("method", "fit_name"), [("maicc", "embedding"), ("dpt", "decision")])
def test_a_fit_stops_at_the_first_loss_that_is_not_finite(
    tiny_run, tmp_path, monkeypatch, method, fit_name
):
    """What was kept before stays, and is sound."""
    config = tiny_config(method)
    getattr(config, fit_name).steps = 9
    files = ModelFiles(tiny_run / "episodes.h5", {fit_name: tmp_path / "x.ckpt"})
    real, seen = Resumable.on_train_batch_end, []

    def ctrl_c(self, trainer, *rest):
        seen.append(trainer.global_step)
        self.interrupted = trainer.global_step == 2
        real(self, trainer, *rest)

    monkeypatch.setattr(Resumable, "on_train_batch_end", ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        fit_model(fit_name, config, files)
    module = type(load_part(tmp_path / "x.part.ckpt"))
    step = module.training_step

    def diverges(self, batch, batch_index):
        return step(self, batch, batch_index) * (torch.nan if self.global_step == 4 else 1.0)

    monkeypatch.setattr(module, "training_step", diverges)
    with pytest.raises(UserError, match=r"loss of nan after 4 steps.*learning_rate=0.001.*scale"):
        fit_model(fit_name, config, files)
    assert seen == [1, 2, 3, 4]
    assert not (tmp_path / "x.ckpt").exists()
    load_part(tmp_path / "x.part.ckpt")


def load_part(path):
    kind = torch.load(path, weights_only=True)["maicc"]["kind"]
    kinds = {"embedding": EmbeddingModule, "decision": DecisionModule, "dpt": DPTModule}
    return load_module(path, kinds[kind])


def test_a_learning_rate_that_is_too_high_leaves_no_model(tiny_run, tmp_path):
    config = tiny_config()
    config.embedding.optimiser.learning_rate = 1e20
    config.embedding.optimiser.schedule = "constant"
    files = ModelFiles(tiny_run / "episodes.h5", {"embedding": tmp_path / "x.ckpt"})
    with pytest.raises(UserError, match=r"lower optimiser.learning_rate=1e\+20, or scale"):
        fit_model("embedding", config, files)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(tiny_run, tmp_path):
    checkpoint = torch.load(tiny_run / "embedding.ckpt", weights_only=True)
    next(iter(checkpoint["state_dict"].values())).view(-1)[0] = torch.inf
    torch.save(checkpoint, tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match=r"bad.ckpt: has weights that are not finite"):
        load_module(tmp_path / "bad.ckpt", EmbeddingModule)
    module = EmbeddingModule(get_family("lbf_7x7").spec)
    module.on_save_checkpoint({})
    next(module.parameters()).data.view(-1)[0] = torch.nan
    with pytest.raises(UserError, match="weight that is not finite"):
        module.on_save_checkpoint({})


@pytest.mark.parametrize(
    ("optimiser", "message"),
    [
        (
            OptimiserConfig(learning_rate=float("nan")),
            "optimiser.learning_rate=nan must be above 0",
        ),
        (
            OptimiserConfig(weight_decay=float("inf")),
            "optimiser.weight_decay=inf must be at least 0",
        ),
        (
            OptimiserConfig(weight_decay=float("nan")),
            "optimiser.weight_decay=nan must be at least 0",
        ),
    ],
)
def test_modules_refuse_numbers_that_are_not_finite(optimiser, message):
    with pytest.raises(UserError, match=message):
        DecisionModule(get_family("lbf_7x7").spec, optimiser=optimiser)


def test_too_little_memory_is_told_in_a_line(tiny_run, tmp_path, monkeypatch):
    def full(self, batch, batch_index):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 b")

    monkeypatch.setattr(EmbeddingModule, "training_step", full)
    files = ModelFiles(tiny_run / "episodes.h5", {"embedding": tmp_path / "x.ckpt"})
    with pytest.raises(UserError, match=r"embedding.window or embedding.model.attention=factored"):
        fit_model("embedding", tiny_config(), files)


def test_a_clusters_variables_do_not_matter(tiny_run, tmp_path, monkeypatch):
    job = {"JOB_ID": 1, "JOB_NAME": "train", "NTASKS": 4, "PROCID": 0, "LOCALID": 0, "NODEID": 0}
    for name, value in {**job, "NODELIST": "n1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    files = ModelFiles(tiny_run / "episodes.h5", {"embedding": tmp_path / "x.ckpt"})
    fit_model("embedding", tiny_config(), files)
    assert files["embedding"].exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_keep_the_state_and_are_given_back(tiny_run, tmp_path, monkeypatch, number):
    config, before = tiny_config(), signal.getsignal(number)
    real = Resumable.on_train_batch_end

    def signalled(self, trainer, *rest):
        if trainer.global_step == 2:
            signal.raise_signal(number)
        real(self, trainer, *rest)

    monkeypatch.setattr(Resumable, "on_train_batch_end", signalled)
    files = ModelFiles(tiny_run / "episodes.h5", {"embedding": tmp_path / "x.ckpt"})
    with pytest.raises(KeyboardInterrupt):
        fit_model("embedding", config, files)
    assert torch.load(tmp_path / "x.part.ckpt", weights_only=True)["global_step"] == 2
    assert signal.getsignal(number) == before


def test_a_signal_after_the_last_step_does_not_lose_the_fit(tiny_run, tmp_path, monkeypatch):
    def signalled(self, trainer, module):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Progress, "on_train_end", signalled)
    files = ModelFiles(tiny_run / "episodes.h5", {"embedding": tmp_path / "x.ckpt"})
    with pytest.raises(KeyboardInterrupt):
        fit_model("embedding", tiny_config(), files)
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["x.ckpt"]


@pytest.mark.parametrize("method", ["maicc", "at", "ad", "dpt", "hissd"])
def test_every_method_trains_with_half_precision(tiny_run, tmp_path, method):
    """The weights stay in single precision, and come out nearly the same."""
    weights = []
    for precision in ("fp32", "bf16"):
        config = replace(tiny_config(method), precision=precision)
        files = ModelFiles.in_folder(tmp_path / precision, method_of(method).fits_of(config))
        files = replace(files, episodes=tiny_run / "episodes.h5")
        for fit_name in files.checkpoints:
            fit_model(fit_name, config, files)
        states = [
            torch.load(files[name], weights_only=True)["state_dict"] for name in files.checkpoints
        ]
        weights.append(torch.cat([part.flatten() for state in states for part in state.values()]))
    single, half = weights
    assert half.dtype == torch.float32
    assert 0 < (single - half).abs().max() < 0.03


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone keeps large arrays")
def test_large_arrays_that_are_freed_go_back_to_the_system():
    code = """
import numpy as np, sys
from maicc.heap import give_back_large_arrays
def own():  # MiB
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 2**10
if sys.argv[1] == "given back":
    give_back_large_arrays()
np.ones(2**21)  # its end raises the size from which glibc gives back by itself
before, large, small = own(), [], []
for _ in range(100):
    large.append(np.ones(2**18))  # 2 MiB
    small.append(np.ones(2**10))
del large
print(own() - before)
"""
    kept = {
        how: float(subprocess.check_output([sys.executable, "-c", code, how]))
        for how in ("given back", "kept")
    }
    assert kept["given back"] < 20 < 100 < kept["kept"]
