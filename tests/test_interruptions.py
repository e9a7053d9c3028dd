"""Interrupted commands go on where they stopped, to the same numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from maicc.cli import main
from tests.commands import COMMON, RUNS, TINY, forked, refused


def test_an_interrupted_adaptation_goes_on_with_its_own_settings_only(tiny_run, tmp_path, capsys):
    out = tmp_path / "x.json"
    from maicc.evaluation import adapt as module

    real = module.play_episode

    def ctrl_c(team, env, seeds, **options):
        if team.episode == 2:
            raise KeyboardInterrupt
        return real(team, env, seeds)

    module.play_episode = ctrl_c
    try:
        with pytest.raises(SystemExit) as stop:
            main(["adapt", str(tiny_run), f"--out={out}", "--episodes=4", "--runs=2"])
        assert stop.value.code == 130
    finally:
        module.play_episode = real
    again = ["adapt", str(tiny_run), f"--out={out}", "--episodes=4", "--runs=2"]
    capsys.readouterr()
    assert "with other models or settings" in refused(capsys, *again, "--seed=1")
    assert "with other models or settings" in refused(capsys, *again, "--memory.alpha=0.5")
    main(again)
    assert len(json.loads(out.read_text())["runs"][0]["returns"]) == 4


@pytest.mark.parametrize(("code", "way_out"), [(130, ""), (2, "way out\n")])
def test_an_interrupted_process_ends_without_pythons_way_out(code, way_out):
    """Threads of JAX may be at work then, and lose what they use on that way."""
    program = (
        "import atexit, sys\n"
        "import maicc.__main__ as module\n"
        "atexit.register(print, 'way out')\n"
        f"module.main = lambda: sys.exit({code})\n"
        "print('said', end=' ')\n"
        "module.process()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, f"said {way_out}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "method", "first_stage", "last_stage"),
    [
        (signal.SIGINT, "maicc", 0, 5),
        (signal.SIGKILL, "maicc", 1, 4),
        (signal.SIGINT, "radt", 1, 3),
    ],
    ids=["SIGINT", "SIGKILL", "radt"],
)
def test_an_interrupted_run_equals_an_unbroken_one(
    kind, method, first_stage, last_stage, tmp_path, monkeypatch
):
    """Interrupted once in each of these stages, at moments that are not chosen."""
    first = "retriever" if method == "radt" else "embedding"
    options = [*COMMON, *RUNS] if method == "radt" else TINY
    arguments = ["run", "lbf_7x7", *options, f"--{first}.steps=40", "--decision.steps=40",
                 "--adapt.episodes=12", f"--method={method}"]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    main([*arguments, "--out=whole"])
    broken = tmp_path / "broken"
    stages = [  # what shows that a stage is under way: its sign is there, its result is not
        ("config.json", "episodes.h5"),
        ("episodes.h5", f"{first}.ckpt"),
        (f"{first}.ckpt", "decision.ckpt"),
        ("decision.ckpt", "adapt/result.json"),
        ("adapt/result.json", "adapt/training.json"),
    ]
    for i, (sign, result) in list(enumerate(stages))[first_stage:last_stage]:
        process, ended = forked([*arguments, "--out=broken"], tmp_path), 0
        while not (broken / sign).exists() and not ended:
            time.sleep(0.01)
            ended, status = os.waitpid(process, os.WNOHANG)
        if not ended:
            time.sleep(0.15 * i)
            os.kill(process, kind)
            _, status = os.waitpid(process, 0)
        said = (tmp_path / "said.txt").read_text()
        if kind == signal.SIGINT and not (broken / result).exists():
            assert os.waitstatus_to_exitcode(status) == 130, said
            assert "Traceback" not in said
    main([*arguments, "--out=broken"])
    for name in ("result", "training"):
        whole, again = (
            json.loads((tmp_path / d / "adapt" / f"{name}.json").read_text())
            for d in ("whole", "broken")
        )
        assert {k: v for k, v in again.items() if k != "seconds"} == {
            k: v for k, v in whole.items() if k != "seconds"
        }
    assert not list(broken.rglob("*.part*"))
