"""One runner of stages: skips, waits, counts seconds, cleans up."""

from __future__ import annotations

import threading

import pytest

from maicc.experiments.stages import Clock, Stage, run_stage
from maicc.files import read_json


def stage(folder, make, **more) -> Stage:
    return Stage("work", folder / "result", make, **more)


def test_what_is_there_is_not_made_again(tmp_path, capsys):
    made, cleaned = [], []

    def make(before: float) -> None:
        made.append(before)
        (tmp_path / "result").write_text("done")

    one = stage(tmp_path, make, finish=lambda: cleaned.append(1))
    for _ in range(2):
        run_stage(one, Clock(tmp_path / "clock.json"))
    assert made == [0.0]
    assert cleaned == [1, 1]  # also what a kill between file and clean-up left
    assert "result is there" in capsys.readouterr().out


def test_seconds_of_a_broken_off_call_count(tmp_path):
    told = []

    def breaks_off(before: float) -> None:
        told.append(before)
        raise KeyboardInterrupt

    def works(before: float) -> None:
        told.append(before)
        (tmp_path / "result").write_text("done")

    (tmp_path / "clock.json").write_text('{"work": 7.5, "other": 1.0}')
    with pytest.raises(KeyboardInterrupt):
        run_stage(stage(tmp_path, breaks_off), Clock(tmp_path / "clock.json"))
    assert not (tmp_path / "result").exists()
    run_stage(stage(tmp_path, works), Clock(tmp_path / "clock.json"))
    assert told[0] == 7.5
    assert told[1] >= told[0]
    seconds = read_json(tmp_path / "clock.json")
    assert seconds["work"] >= told[1]
    assert seconds["other"] == 1.0


def test_two_calls_make_it_once(tmp_path):
    made, started, go = [], threading.Event(), threading.Event()

    def make(before: float) -> None:
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
