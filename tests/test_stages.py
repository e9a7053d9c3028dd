"""One runner of stages: skips, waits, counts seconds, cleans up."""

from __future__ import annotations

import threading
from time import sleep

import pytest

from maicc.experiments.stages import Clock, Stage, run_stage
from maicc.files import read_json


def stage(folder, make, **more) -> Stage:
    return Stage("work", folder / "result", make, **more)


def test_what_is_there_is_not_made_again(tmp_path, capsys):
    made, cleaned = [], []

    def make() -> None:
        made.append(1)
        (tmp_path / "result").write_text("done")

    one = stage(tmp_path, make, finish=lambda: cleaned.append(1))
    for _ in range(2):
        run_stage(one, Clock(tmp_path / "clock.json"))
    assert made == [1]
    assert cleaned == [1, 1]  # also what a kill between file and clean-up left
    assert "result is there" in capsys.readouterr().out


def test_seconds_of_a_broken_off_call_count(tmp_path):
    def breaks_off() -> None:
        sleep(0.02)
        raise KeyboardInterrupt

    def works() -> None:
        (tmp_path / "result").write_text("done")

    (tmp_path / "clock.json").write_text('{"work": 7.5, "other": 1.0}')
    with pytest.raises(KeyboardInterrupt):
        run_stage(stage(tmp_path, breaks_off), Clock(tmp_path / "clock.json"))
    assert not (tmp_path / "result").exists()
    assert read_json(tmp_path / "clock.json")["work"] >= 7.52
    run_stage(stage(tmp_path, works), Clock(tmp_path / "clock.json"))
    seconds = read_json(tmp_path / "clock.json")
    assert seconds["work"] >= 7.52
    assert seconds["other"] == 1.0


def test_two_calls_make_it_once(tmp_path):
    made, started, go = [], threading.Event(), threading.Event()

    def make() -> None:
        made.append(1)
        started.set()
        assert go.wait(10)
        (tmp_path / "result").write_text("done")

    def call() -> None:
        run_stage(stage(tmp_path, make), Clock(tmp_path / "clock.json"))

    threads = [threading.Thread(target=call) for _ in range(2)]
    threads[0].start()
    assert started.wait(10)
    threads[1].start()
    go.set()
    for thread in threads:
        thread.join(10)
    assert made == [1]
