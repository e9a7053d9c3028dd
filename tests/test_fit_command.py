"""`maicc fit`, the Lightning CLI."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from maicc.baselines.at import ATModule
from maicc.cli import main
from maicc.files import read_metrics
from maicc.training.checkpoints import load_module
from maicc.training.modules import DecisionModule
from tests.commands import maicc, refused


@pytest.mark.slow
def test_fit_is_a_lightning_cli(tiny_run, tmp_path, monkeypatch, capsys):
    configs = Path(__file__).parent.parent / "configs"
    monkeypatch.chdir(tmp_path)

    def arguments(model: str, steps: int, *more: str) -> list[str]:
        return [
            "fit", "--config", str(configs / f"{model}.yaml"), f"--trainer.max_steps={steps}",
            f"--trainer.default_root_dir={model}", "--trainer.accelerator=cpu",
            "--trainer.logger=false", f"--data.init_args.path={tiny_run / 'episodes.h5'}", *more,
        ]  # fmt: skip

    two = arguments("embedding", 3, "--trainer.devices=2", "--trainer.strategy=ddp_fork")
    maicc(*two, cwd=tmp_path)
    checkpoint = next((tmp_path / "embedding").rglob("*.ckpt"))
    constant = "--model.init_args.optimiser.schedule=constant"
    retrieves = [f"--data.init_args.embedding={checkpoint}", "--model.init_args.model.k=2"]
    main(arguments("decision", 3, constant, *retrieves))
    done = f"--ckpt_path={next((tmp_path / 'decision').rglob('*.ckpt'))}"
    main(arguments("decision", 5, constant, *retrieves, done))
    assert any("step=5" in p.name for p in (tmp_path / "decision").rglob("*.ckpt"))
    measured = ["--data.init_args.held_back=0.2", "--trainer.val_check_interval=2"]
    logger = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=curves"]
    main([*arguments("embedding", 4, *measured), *logger])
    (curve,) = Path("curves").rglob("metrics.csv")
    rows = [row for row in read_metrics(curve) if "held_back_loss" in row]
    assert [row["step"] for row in rows] == [1, 3]
    said = refused(capsys, *arguments("embedding", 9, f"--ckpt_path={checkpoint}"))
    assert "was laid out for 3 steps, not for 9" in said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_fit_goes_on_as_if_unbroken(tiny_run, tmp_path, monkeypatch, capsys, number):
    monkeypatch.chdir(tmp_path)
    decision = Path(__file__).parent.parent / "configs" / "decision.yaml"

    def arguments(folder: str, *more: str) -> list[str]:
        return [
            "fit", "--config", str(decision), "--trainer.max_steps=4", "--trainer.accelerator=cpu",
            "--trainer.logger=false", f"--trainer.default_root_dir={folder}",
            f"--data.init_args.path={tiny_run / 'episodes.h5'}", *more,
        ]  # fmt: skip

    main(arguments("unbroken"))
    real, steps = DecisionModule.training_step, []

    def pressed(self, *args):
        steps.append(1)
        if len(steps) == 2:
            signal.raise_signal(number)
        return real(self, *args)

    handler = signal.getsignal(number)
    monkeypatch.setattr(DecisionModule, "training_step", pressed)
    with pytest.raises(SystemExit) as end:
        main(arguments("broken"))
    assert (end.value.code, len(steps), signal.getsignal(number)) == (130, 2, handler)
    (kept,) = Path("broken").rglob("*.ckpt")
    assert f"--ckpt_path={kept} goes on" in capsys.readouterr().out
    main(arguments("broken", f"--ckpt_path={kept}"))
    assert len(steps) == 4
    weights = [
        load_module(next(Path(folder).rglob("*step=4.ckpt")), DecisionModule).state_dict()
        for folder in ("unbroken", "broken")
    ]
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


@pytest.mark.slow
def test_fit_trains_a_rival(tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = [
        "fit", "--model", "maicc.baselines.at.ATModule", "--data",
        "maicc.training.chain_data.ChainData", "--data.init_args.family=lbf_7x7",
        f"--data.init_args.path={tiny_run / 'episodes.h5'}", "--trainer.max_steps=2",
        "--trainer.accelerator=cpu", "--trainer.logger=false",
    ]  # fmt: skip
    main([*arguments, "--model.init_args.model.episodes=3"])
    checkpoint = next(tmp_path.rglob("*.ckpt"))
    assert load_module(checkpoint, ATModule).config.episodes == 3
    said = refused(capsys, *arguments, "--data.init_args.episodes=3")
    assert "set data.init_args.episodes=4" in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "no task family 'nope'; there are: lbf_7x7"),
        (["--trainer.max_step=3"], "trainer.max_step"),  # a part of a name
        (["--nope=3"], "unrecognized arguments: --nope=3; `maicc fit --help` lists the options"),
        (["--trainer.max_steps=x"], '"trainer.max_steps"'),
        (
            ["--data.family=lbf_7x7", "--model.init_args.optimiser.learning_rate=.nan"],
            "optimiser.learning_rate=nan must be above 0",
        ),
    ],
)
def test_refusals_are_shown_as_those_of_other_commands(
    tmp_path, monkeypatch, capsys, more, message
):
    monkeypatch.chdir(tmp_path)
    said = refused(
        capsys, "fit", "--model=maicc.training.EmbeddingModule",
        "--data=maicc.training.EpisodeData", "--data.family=nope", *more,
    )  # fmt: skip
    assert message in said
    (last,) = [line for line in said.splitlines() if line.startswith("maicc:")]
    assert said.endswith(last + "\n")
    assert "usage:" not in said
