"""Two processes that make the same file: the second one waits and finds it."""

from __future__ import annotations

import subprocess
import sys

from maicc.files import locked

MAKER = """
import sys, time
from pathlib import Path
from maicc.files import locked, write_text
path = Path(sys.argv[1])
with locked(path):
    print("begun", flush=True)
    time.sleep(0.5)
    write_text(path, "made")
    if sys.argv[2] == "killed":
        import os
        os.kill(os.getpid(), 9)
"""


def begin(path, how):
    maker = subprocess.Popen(
        [sys.executable, "-c", MAKER, str(path), how], stdout=subprocess.PIPE, text=True
    )
    assert maker.stdout.readline() == "begun\n"
    return maker


def test_a_file_that_is_being_made_is_waited_for(tmp_path, capsys):
    path = tmp_path / "model.ckpt"
    maker = begin(path, "whole")
    assert not path.exists()
    with locked(path):
        assert path.read_text() == "made"
    assert "waiting" in capsys.readouterr().out
    maker.wait()


def test_a_killed_process_holds_nothing_up(tmp_path):
    path = tmp_path / "model.ckpt"
    begin(path, "killed").wait()
    with locked(path):
        assert path.read_text() == "made"
