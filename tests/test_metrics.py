"""What a fit logs, and the episodes that it holds back from training."""

from __future__ import annotations

import importlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from maicc.baselines.ad import HistoryData
from maicc.baselines.dpt import SetData
from maicc.baselines.hissd import HiSSDData
from maicc.baselines.radt_pieces import RADTData
from maicc.config import check_logger
from maicc.data.dataset import EpisodeFile
from maicc.experiments.fits import fit_model
from maicc.experiments.run import run
from maicc.experiments.units import Unit
from maicc.files import ModelFiles, read_metrics
from maicc.report import figures, write_report
from maicc.training.chain_data import ChainData
from maicc.training.checkpoints import load_module, weights_hash
from maicc.training.episode_data import EpisodeData
from maicc.training.fit import Resumable
from maicc.training.modules import EmbeddingModule
from maicc.training.record_data import RecordData
from maicc.training.retrieval_data import RetrievalData
from maicc.types import UserError
from tests.commands import COMMON, refused
from tests.conftest import tiny_config

FAMILY = "lbf_7x7"
SHARE = 0.3  # of the 54 episodes of the tiny run: 16
WHOLE_TASKS = 0.5  # of its 9 tasks: 4


def train(tiny_run: Path, path: Path, steps: int = 25, **options) -> list[dict[str, float]]:
    """Trains an embedding with chance in its steps, and gives the rows that it has logged."""
    config = tiny_config()
    config.embedding.model.dropout = 0.2
    config.embedding.steps, config.embedding.held_back = steps, SHARE
    for name, value in options.items():
        setattr(config, name, value)
    fit_model("embedding", config, ModelFiles(tiny_run / "episodes.h5", {"embedding": path}))
    return read_metrics(path.with_suffix("") / "metrics.csv")


def without_speed(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "steps_per_second"} for row in rows]


def test_every_row_of_an_interrupted_fit_is_logged_once(tiny_run, tmp_path, monkeypatch):
    """Also what a killed process had logged after the last state that was kept."""
    whole = train(tiny_run, tmp_path / "whole.ckpt")
    assert [row["step"] for row in whole] == [10, 20, 25]
    losses = {"action", "reward", "dynamics", "distillation", "credit", "loss"}
    logged = {*losses, "lr", "steps_per_second", "step"}
    assert set(whole[1]) == logged
    assert set(whole[0]) == set(whole[2]) == logged | {f"held_back_{name}" for name in losses}
    assert all(row["steps_per_second"] > 0 for row in whole)

    real = Resumable.on_train_batch_end

    def ctrl_c(self, trainer, *rest):
        self.interrupted = trainer.global_step in (7, 10, 15)
        real(self, trainer, *rest)

    monkeypatch.setattr(Resumable, "on_train_batch_end", ctrl_c)
    path = tmp_path / "broken.ckpt"
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            train(tiny_run, path)
    file = tmp_path / "broken" / "metrics.csv"
    row = file.read_text().splitlines()[1].split(",")
    names = file.read_text().splitlines()[0].split(",")
    row[names.index("step")] = "20"
    file.write_text(file.read_text() + ",".join(row) + "\n" + ",".join(row[:4]))
    assert [row["step"] for row in read_metrics(file)] == [10, 20]
    assert without_speed(train(tiny_run, path)) == without_speed(whole)
    nets = [load_module(p, EmbeddingModule) for p in (path, tmp_path / "whole.ckpt")]
    assert weights_hash(nets[0]) == weights_hash(nets[1])


def test_a_fit_that_begins_anew_logs_anew(tiny_run, tmp_path):
    train(tiny_run, tmp_path / "x.ckpt")
    (tmp_path / "x.ckpt").unlink()
    assert [row["step"] for row in train(tiny_run, tmp_path / "x.ckpt", steps=4)] == [4]


def test_no_logger_leaves_no_file_and_the_same_weights(tiny_run, tmp_path):
    train(tiny_run, tmp_path / "logged.ckpt")
    assert train(tiny_run, tmp_path / "quiet.ckpt", logger="none") == []
    assert {p.name for p in tmp_path.iterdir()} == {"logged.ckpt", "logged", "quiet.ckpt"}
    nets = [load_module(tmp_path / f"{n}.ckpt", EmbeddingModule) for n in ("logged", "quiet")]
    assert weights_hash(nets[0]) == weights_hash(nets[1])


def test_held_back_losses_are_those_of_the_trained_network(tiny_run, tmp_path):
    row = train(tiny_run, tmp_path / "x.ckpt")[-1]
    module = load_module(tmp_path / "x.ckpt", EmbeddingModule)
    batches = of_kind(EpisodeData, tiny_run, seed=3, batch_size=4).held_back_batches()
    losses = [module.losses(batch) for batch in batches]
    for name in losses[0]:
        expected = sum(float(each[name]) for each in losses) / len(losses)
        assert row[f"held_back_{name}"] == pytest.approx(expected, rel=1e-5)


def of_kind(kind, folder: Path, share: float = SHARE, **options):
    """Batches of a kind, once their dataset is read."""
    if issubclass(kind, ChainData):
        options |= {"episodes": 3}
    if kind is SetData:
        options |= {"lived": True}
    if kind in (RetrievalData, RecordData):
        options |= {"embedding": str(folder / "embedding.ckpt"), "k": 2}
    if kind is RecordData:
        options |= {"record": 3}
    if kind is RADTData:
        options |= {"retriever": str(folder / "retriever.ckpt")}
    data = kind(family=FAMILY, path=str(folder / "episodes.h5"), held_back=share, **options)
    data.setup("fit")
    return data


@pytest.fixture(scope="module")
def folder(tiny_run, tmp_path_factory) -> Path:
    """The tiny run with a retriever of RADT's."""
    made = tmp_path_factory.mktemp("held_back") / "run"
    shutil.copytree(tiny_run, made)
    fit_model("retriever", tiny_config("radt"), ModelFiles.in_folder(made, ["retriever"]))
    return made


def nan(tensors) -> torch.Tensor:
    """Whether each row (B,) has observations that are not numbers."""
    return tensors.observations.isnan().flatten(1).any(1)


@pytest.mark.parametrize(
    "kind",
    [
        EpisodeData,
        HiSSDData,
        RetrievalData,
        RecordData,
        ChainData,
        HistoryData,
        SetData,
        RADTData,
    ],
)
@pytest.mark.parametrize("share", [SHARE, WHOLE_TASKS], ids=["episodes", "tasks"])
def test_held_back_episodes_are_in_no_training_batch(folder, kind, share):
    """They are marked by observations that are not numbers."""
    data = of_kind(kind, folder, share)
    of_teams = isinstance(data, EpisodeData)
    episodes = EpisodeFile(data.path).read()
    held = data.hold_back(episodes)
    seen = np.where(held[:, None, None, None], np.nan, episodes.observations)
    if of_teams:
        data.episodes = replace(data.episodes, observations=seen)
    else:
        data.stored.trajectories.observations.episodes = seen

    def asked_and_shown(batch):
        if of_teams:
            return [nan(getattr(batch, "team", batch))], []
        if hasattr(batch, "chain"):
            return [nan(batch.chain)], []
        if kind is RADTData:
            return [nan(batch.current)], [nan(batch.retrieved)[batch.piece.any(1)]]
        shown = [nan(batch.contexts)]
        if kind is RecordData and share == SHARE:  # whole tasks have their records with them
            shown.append(batch.record.observations.isnan().any())
        return [nan(batch.current)], shown

    batches, seen = data.batches(0), 0
    for _ in range(30):
        asked, shown = asked_and_shown(next(batches))
        assert not any(part.any() for part in (*asked, *shown))
        seen += len(asked[0])
    assert seen > 200
    measured = data.held_back_batches()
    assert len(measured) == 8
    for batch in measured:
        asked, shown = asked_and_shown(batch)
        assert all(part.all() for part in asked)
        assert not any(part.any() for part in shown)


def test_an_even_share_of_tasks_and_behaviours_is_held_back(tiny_run):
    episodes = EpisodeFile(tiny_run / "episodes.h5").read()  # three of each behaviour and task
    data = of_kind(EpisodeData, tiny_run, 1 / 3)
    held = data.hold_back(episodes)
    assert (held == of_kind(ChainData, tiny_run, 1 / 3).hold_back(episodes)).all()
    groups = np.bincount(2 * episodes.task + episodes.behaviour, weights=held)
    assert groups.tolist() == [1] * 18
    assert of_kind(EpisodeData, tiny_run, 0.02).hold_back(episodes).sum() == 1
    other = of_kind(EpisodeData, tiny_run, 1 / 3, seed=1).hold_back(episodes)
    assert (held != other).any()
    none = of_kind(EpisodeData, tiny_run, 0.0)
    assert not none.hold_back(episodes).any()
    assert none.held_back_batches() == none.val_dataloader() == []
    with pytest.raises(UserError, match=r"held_back=0.9 must be at least 0 and at most 0.5"):
        EpisodeData(FAMILY, str(tiny_run / "episodes.h5"), held_back=0.9)


def test_whole_tasks_are_held_back_where_the_share_makes_four(tiny_run):
    """A model that has learned its records by heart knows nothing of theirs."""
    data = of_kind(RecordData, tiny_run, WHOLE_TASKS)
    held = data.hold_back(EpisodeFile(data.path).read())[data.episode]
    tasks = set(data.task[held])
    assert len(tasks) == 4
    assert not tasks & set(data.task[~held])
    rng = np.random.default_rng(0)
    for held_back in (False, True):
        sets = [data._draw_set(rng, data.share, held_back) for _ in range(50)]
        drawn = np.concatenate([part for one in sets for part in one])
        assert (held[drawn] == held_back).all()
        assert max(len(one.memory) for one in sets) == 3  # of six, half are queries


@pytest.mark.parametrize("command", ["run", "benchmark", "compare"])
def test_a_logger_whose_package_is_missing_is_refused_before_work(
    tmp_path, monkeypatch, capsys, command
):
    monkeypatch.chdir(tmp_path)
    config = importlib.import_module("maicc.config")
    monkeypatch.setattr(config, "find_spec", lambda name: None)
    said = refused(capsys, command, FAMILY, *COMMON, "--logger=mlflow", "--out=x")
    assert 'logger=mlflow needs a package: pip install "maicc[mlflow]"' in said
    assert not (tmp_path / "x").exists()
    assert "logger" in refused(capsys, command, FAMILY, *COMMON, "--logger=nope", "--out=x")


def test_the_packages_of_loggers():
    check_logger("csv")
    check_logger("none")


def test_the_logger_changes_no_results(tmp_path):
    one, other = tiny_config(), tiny_config(logger="none")
    assert one.identity() == other.identity()
    units = [Unit("x", config, (), tmp_path) for config in (one, other)]
    assert units[0].result == units[1].result
    assert units[0].files == units[1].files
    other.embedding.held_back = 0.1
    assert one.identity() != other.identity()


def test_a_run_goes_on_with_another_logger(tiny_run, tmp_path, capsys):
    shutil.copytree(tiny_run, tmp_path / "run")
    run(tiny_config(logger="none"), tmp_path / "run")
    assert "decision: " in capsys.readouterr().out


def test_a_report_shows_the_curves_of_every_fit(tiny_run, tmp_path):
    page = (tiny_run / "report.html").read_text()
    assert "<h2>Training</h2>" in page
    for title in ("embedding: loss", "decision: loss", "decision: accuracy"):
        assert f">{title}</text>" in page
    shutil.copytree(tiny_run, tmp_path / "run")
    for fit in ("embedding", "decision"):
        shutil.rmtree(tmp_path / "run" / fit)
    assert "<h2>Training</h2>" not in write_report(tmp_path / "run").read_text()


def test_curves_are_drawn_of_what_was_logged():
    rows = [
        {"step": 10.0, "loss": 2.0, "held_back_loss": 2.5},
        {"step": 20.0, "loss": 1.0},
    ]
    drawn = figures.training_curves({"embedding": rows})
    assert ">held back</text>" in drawn
    assert "accuracy" not in drawn
    assert ">held back</text>" not in figures.training_curves({"embedding": rows[1:]})
