"""The authors' layout, made here by hand from episodes of our own."""

from __future__ import annotations

import numpy as np
import pytest

from maicc.data.behaviour import play
from maicc.data.dataset import EpisodeFile
from maicc.data.episodes import concatenate
from maicc.data.reference import convert_reference
from maicc.envs import get_family
from maicc.types import UserError
from tests.layouts import authors_arrays, write_h5

FAMILY = get_family("lbf_7x7")


@pytest.fixture
def ours():
    tasks = FAMILY.training_tasks
    return concatenate(
        [play(FAMILY, task, 0.3, [(i, e) for e in range(10)]) for i, task in enumerate(tasks)]
    )


@pytest.fixture
def theirs(ours):
    return authors_arrays(ours)


def test_the_episodes_come_out_as_they_were(tmp_path, ours, theirs):
    convert_reference(write_h5(tmp_path / "theirs.h5", theirs), FAMILY, tmp_path / "out.h5")
    read = EpisodeFile(tmp_path / "out.h5").read()
    for name in ("observations", "actions", "action_mask", "rewards", "length",
                 "terminated", "truncated"):  # fmt: skip
        assert np.array_equal(getattr(read, name), getattr(ours, name)), name
    assert read.task.tolist() == np.repeat(np.arange(9), 10).tolist()
    best = read.rewards.sum(1)[read.behaviour == 4]
    worst = read.rewards.sum(1)[read.behaviour == 0]
    assert best.mean() > worst.mean()


def test_without_a_termination_the_filled_steps_give_the_length(tmp_path, ours, theirs):
    theirs["terminated"][:] = 0
    convert_reference(write_h5(tmp_path / "theirs.h5", theirs), FAMILY, tmp_path / "out.h5")
    assert np.array_equal(EpisodeFile(tmp_path / "out.h5").read().length, ours.length)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("obs", lambda a: a[..., :5], r"field obs has shape \(90, 16, 3, 5\), expected"),
        ("obs", lambda a: np.where(np.arange(90)[:, None, None, None] == 7, np.nan, a),
         "field obs, episode 7: NaN"),
        ("actions", lambda a: a + 6, "field actions, episode 0: an action is outside"),
        ("filled", lambda a: a * 0, "field filled, episode 0"),
        ("reward", lambda a: a * 10, "outside the family's return_bounds 0 to 2"),
    ],
)  # fmt: skip
def test_refused(tmp_path, theirs, name, change, message):
    theirs[name] = change(theirs[name])
    with pytest.raises(UserError, match=message):
        convert_reference(write_h5(tmp_path / "theirs.h5", theirs), FAMILY, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_refused_files(tmp_path, theirs):
    source = write_h5(tmp_path / "theirs.h5", {k: v[:89] for k, v in theirs.items()})
    with pytest.raises(UserError, match="89 episodes are not equal blocks of 9 tasks"):
        convert_reference(source, FAMILY, tmp_path / "out.h5")
    nothing = write_h5(tmp_path / "nothing.h5", {k: v[:0] for k, v in theirs.items()})
    with pytest.raises(UserError, match="no episodes"):
        convert_reference(nothing, FAMILY, tmp_path / "out.h5")
    del theirs["filled"]
    with pytest.raises(UserError, match="field filled is missing"):
        convert_reference(write_h5(tmp_path / "less.h5", theirs), FAMILY, tmp_path / "out.h5")
    source.write_bytes(source.read_bytes()[:1000])
    with pytest.raises(UserError, match="perhaps cut short"):
        convert_reference(source, FAMILY, tmp_path / "out.h5")
