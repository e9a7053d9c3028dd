"""Two processes that make the same file: the second one waits and finds it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from filelock import FileLock

from maicc.files import (
    RowsOnDisk,
    hdf5_to_read,
    hdf5_to_write,
    locked,
    read_json,
    require_writable,
    whole_file,
    write_json,
    write_text,
)
from maicc.types import UserError

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


def test_a_place_that_cannot_be_written_is_named_before_the_work(tmp_path):
    path = tmp_path / "new" / "result.json"
    require_writable(path)
    assert list(path.parent.iterdir()) == []
    write_text(path, "kept")
    require_writable(path)
    assert path.read_text() == "kept"
    with pytest.raises(OSError, match=r"new.result\.json.x'"):
        require_writable(path / "x")


def test_a_killed_process_holds_nothing_up(tmp_path):
    path = tmp_path / "model.ckpt"
    begin(path, "killed").wait()
    with locked(path):
        assert path.read_text() == "made"


def test_a_lock_may_stand_inside_itself(tmp_path):
    with locked(tmp_path / "x"), locked(tmp_path / "x"):
        pass
    begin(tmp_path / "x", "whole").wait()  # and nothing is held afterwards
    assert (tmp_path / "x").read_text() == "made"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_it_is_said_once(tmp_path, monkeypatch, capsys, number):
    def refuse(self, *args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    for name in ("a", "b"):
        with locked(tmp_path / name):
            write_text(tmp_path / name, "made")
    assert (tmp_path / "b").read_text() == "made"
    said = capsys.readouterr().out
    assert said.count("no locks here") == 1
    assert os.strerror(number) in said


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "x.json"
    with whole_file(path) as first, whole_file(path) as second:
        assert first != second
        first.write_text("one")
        second.write_text("two")
    assert path.read_text() == "one"  # the block that ended last
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed(tmp_path):
    for name in ("model.ckpt", "model.part.ckpt"):
        with pytest.raises(FileNotFoundError), whole_file(tmp_path / name) as temporary:
            left = tmp_path / temporary.name
        left.write_text("half")
    others = tmp_path / ".other.ckpt.1234.part"
    others.write_text("another's")
    with locked(tmp_path / "model.ckpt"):
        assert list(tmp_path.glob(".model*.part")) == []
    assert others.exists()


def test_a_full_disk_is_named_by_its_file(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: .*data\.h5"):
        write_to_full(tmp_path / "data.h5")
    raised = pytest.raises(OSError, match=r"No space left on device: .*a\.ckpt'$")
    with raised as error, whole_file(tmp_path / "a.ckpt") as temporary:
        # as of a copy, which names both files
        raise OSError(errno.ENOSPC, "No space", "/tmp/other", None, str(temporary))
    assert error.value.filename2 is None
    assert list(tmp_path.iterdir()) == []


def write_to_full(path):
    with whole_file(path) as temporary:
        temporary.write_text("")
        with open("/dev/full", "w") as full:
            full.write("x")


def test_an_hdf5_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "x.h5"

    def fail():
        with hdf5_to_write(path) as file:
            file["a"] = [1, 2]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []
    with hdf5_to_write(path) as file:
        file["a"] = [1, 2]
    with hdf5_to_read(path, "make it again") as file:
        assert file["a"][:].tolist() == [1, 2]
    with pytest.raises(UserError, match="make it again"), hdf5_to_read(path, "make it again") as f:
        f["b"]


def test_a_file_on_a_file_system_without_locks_is_read(tmp_path, monkeypatch):
    path, real, how = tmp_path / "x.h5", h5py.File, []
    with hdf5_to_write(path) as file:
        file["a"] = [1, 2]

    def no_locks(name, mode, locking=None):
        how.append(locking)
        if locking is None:
            raise OSError(errno.ENOLCK, "Unable to open file (unable to lock file, errno = 37)")
        return real(name, mode, locking=locking)

    monkeypatch.setattr(h5py, "File", no_locks)
    with hdf5_to_read(path, "") as file:
        assert file["a"][:].tolist() == [1, 2]
    assert how == [None, False]


def test_numbers_of_numpy_are_written(tmp_path):
    write_json(tmp_path / "x.json", {"a": np.int64(3), "b": np.float32(0.5)})
    assert read_json(tmp_path / "x.json") == {"a": 3, "b": 0.5}


def test_rows_on_disk_are_read_as_they_were_written(tmp_path):
    rows = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    kept = RowsOnDisk(tmp_path, rows.shape, rows.dtype)
    kept.write(2, rows[2:], [3, 1])
    kept.write(0, rows[:2], [0, 2])
    array = kept.array()
    assert list(tmp_path.iterdir()) == []
    assert not array[0].any()
    for row, steps in ((1, 2), (2, 3), (3, 1)):
        assert (array[row, :steps] == rows[row, :steps]).all()
        assert not array[row, steps:].any()
    assert RowsOnDisk(tmp_path, (0, 3), np.float32).array().shape == (0, 3)
    elsewhere = RowsOnDisk(tmp_path / "missing", rows.shape, rows.dtype)
    elsewhere.write(0, rows, [3] * 4)
    assert (elsewhere.array() == rows).all()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_named(tmp_path):
    kept = RowsOnDisk(tmp_path, (4, 2000), np.float32)
    kept.file.close()
    with open("/dev/full", "rb+", buffering=0) as kept.file:
        with pytest.raises(OSError, match="No space") as error:
            kept.write(0, np.ones((4, 2000), np.float32), [2000] * 4)
        assert error.value.filename == str(tmp_path)
