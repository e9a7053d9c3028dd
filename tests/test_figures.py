from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

from maicc.data.episodes import empty_episodes
from maicc.envs import get_family
from maicc.report import figures, write
from maicc.types import Behaviour, UserError


def test_labels_that_would_overlap_are_moved_apart_around_their_middle():
    assert figures._separate(np.array([1.0, 1.0, 1.0]), 0.1) == pytest.approx([0.9, 1.0, 1.1])
    assert figures._separate(np.array([2.0, 0.0]), 0.1) == pytest.approx([2.0, 0.0])
    assert figures._separate(np.array([1.0, 0.0, 1.02]), 0.1) == pytest.approx([0.96, 0.0, 1.06])


def test_the_running_mean_is_of_what_has_been_played():
    returns = np.arange(14.0).reshape(2, 7)
    expected = [[row[max(e - 4, 0) : e + 1].mean() for e in range(7)] for row in returns]
    assert figures._running_mean(returns) == pytest.approx(np.array(expected))


def test_every_curve_is_named_where_it_ends_and_what_does_not_adapt_at_its_mean():
    rises, noise = np.linspace(0, 2, 20) * np.ones((4, 1)), np.tile([0.0, 1.0], (4, 10))
    drawn = figures.benchmark_curves({"rises": rises, "flat": noise}, {"flat"}, 2.0)
    assert f"rises {rises[0, -5:].mean():.2f}" in drawn
    assert "flat 0.50" in drawn
    assert drawn.count("stroke-dasharray") > figures.benchmark_curves(
        {"rises": rises, "flat": noise}, (), 2.0
    ).count("stroke-dasharray")


def test_profiles_have_a_band_where_runs_were_resampled():
    share, at = [1.0, 0.5, 0.0], [0.0, 0.5, 1.0]
    band = {"share": share, "low": [1.0, 0.25, 0.0], "high": [1.0, 0.75, 0.0]}
    drawn = figures.profile_curves({"_team": {"share": share}, "other": band}, at)
    assert drawn.count('id="FillBetweenPolyCollection') == 1
    assert ">_team</text>" in drawn
    assert "share of runs above it" in drawn
    many = {str(i): band for i in range(40)}
    assert ">29</text>" in figures.profile_curves(many, at)
    assert ">30</text>" not in figures.profile_curves(many, at)


NAMES = ["$\\up$ and $x$", "_hidden", "a" * 300, "two\nlines", "<b>&"]


def test_names_are_drawn_as_they_are_and_short():
    points, task = np.random.default_rng(0).random((10, 2)), np.arange(10) % 5
    drawn = figures.key_map(points, task, NAMES)
    for shown in ("$\\up$ and $x$", "_hidden", "a" * 39 + "…", "two lines", "&lt;b&gt;&amp;"):
        assert f">{shown}</text>" in drawn
    curves = {name: np.ones((2, 3)) for name in NAMES}
    assert "_hidden 1.00" in figures.benchmark_curves(curves, (), 2.0)


def height(svg: str) -> float:
    return float(re.search(r'viewBox="0 0 [0-9.]+ ([0-9.]+)"', svg)[1])


def test_more_tasks_and_behaviours_make_no_larger_figure():
    rng = np.random.default_rng(0)
    few, many = (
        figures.key_map(rng.random((200, 2)), np.arange(200) % n, [str(i) for i in range(n)])
        for n in (3, 100)
    )
    assert height(many) <= height(few)
    assert 'id="legend' in few
    assert 'id="legend' not in many
    levels = [Behaviour("annealed", i / 60, 0.0, i / 60) for i in range(61)]
    drawn = figures.return_histogram(rng.random(61), np.arange(61), levels)
    assert drawn.count("annealed, ") == figures.MOST
    assert "reached 0%" in drawn
    assert "reached 100%" in drawn


CODE = """
import os, sys
os.environ["MATPLOTLIBRC"] = sys.argv[1]
import numpy as np
from maicc.report.figures import adaptation_curve
print(hash(adaptation_curve({"held out": np.ones((2, 3))}, 2.0)))
import matplotlib
assert "matplotlib.pyplot" not in sys.modules
"""


def test_the_users_matplotlibrc_changes_nothing(tmp_path):
    (tmp_path / "matplotlibrc").write_text(
        "text.usetex: True\nbackend: pdf\nfont.size: 30\nsvg.fonttype: path\n"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", CODE, rc], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        ).stdout
        for rc in (str(tmp_path), os.devnull)
    }  # fmt: skip
    assert len(said) == 1


def stored(folder, vectors, length=5):
    """Keys of M single agents' episodes in a file, and the episodes."""
    spec = dataclasses.replace(get_family("lbf_7x7").spec, n_agents=1)
    episodes = empty_episodes(spec, len(vectors))
    episodes.agent_mask[:], episodes.length[:], episodes.alive[:] = True, length, True
    with h5py.File(folder / "keys.h5", "w") as file:
        file["vectors"] = np.repeat(vectors[:, None], spec.max_steps, 1)
    return folder / "keys.h5", episodes


KEYS = np.random.default_rng(0).normal(size=(400, 8))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (np.ones((1500, 8)), "1500 keys have 1 values, and 3 are needed"),
        (np.ones((60, 8)) + 1e-7 * KEYS[:60], "60 keys have 1 values"),
        (KEYS[:2], "2 keys have 2 values"),
        (np.where(np.arange(400)[:, None] == 7, np.nan, KEYS), "keys are not finite"),
    ],
)
def test_keys_that_make_no_map(tmp_path, keys, message):
    path, episodes = stored(tmp_path, keys)
    with pytest.raises(UserError, match=message):
        write._map(path, episodes, (0.0, 2.0))


@pytest.mark.parametrize("keys", [KEYS, KEYS[:3], KEYS[:4], np.repeat(KEYS[:6], 50, 0)])
def test_equal_keys_have_one_place_and_others_have_their_own(tmp_path, keys):
    path, episodes = stored(tmp_path, keys)
    points, _ = write._map(path, episodes, (0.0, 2.0))
    assert np.isfinite(points).all()
    order = np.unique(keys, axis=0, return_inverse=True)[1].ravel()
    places = np.unique(points, axis=0, return_inverse=True)[1].ravel()
    assert len(np.unique(np.stack([order, places]), axis=1).T) == len(np.unique(order))


def test_a_report_says_why_there_is_no_map(tmp_path, tiny_run):
    shutil.copytree(tiny_run, tmp_path / "run")
    for path in (tmp_path / "run").glob("keys-*.h5"):
        path.write_bytes(b"damaged")
    page = write.write_report(tmp_path / "run").read_text()
    assert "No map of the keys: " in page
    assert page.count("<svg") == 5
