"""A short form of the fuzz: `python -m tests.fuzz` runs many more cases."""

from __future__ import annotations

import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import case, kinds, outcome, plain

pytestmark = pytest.mark.slow

NAMES = [
    "dataset", "arrays, .npz", "arrays, .h5", "authors' layout", "keys", "embedding",
    "decision model", "practice runs", "unfinished adaptation", "traces", "bundle", "config.json",
    "variants",
]  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Every kind of file, what is read of it, and a folder to damage it in."""
    folder = tmp_path_factory.mktemp("fuzz")
    work = folder / "work"
    found = {kind.name: kind for kind in kinds(folder)}
    work.mkdir()
    expected = {}
    for name in NAMES:
        shutil.copy(found[name].good, work / found[name].good.name)
        expected[name] = plain(found[name].read(work / found[name].good.name))
    return found, expected, work


@pytest.mark.parametrize("name", NAMES)
def test_a_sound_file_is_read_as_it_was_written(good, name):
    found, expected, work = good
    shutil.copy(found[name].good, work / found[name].good.name)
    assert outcome(found[name], work / found[name].good.name, expected[name]) == "equal"


@settings(
    max_examples=100, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(name=st.sampled_from(NAMES), seed=st.integers(1000, 10**6))
def test_what_is_damaged_is_refused_or_read_as_it_was_written(good, name, seed):
    found, expected, work = good
    how, came = case(found[name], seed, work, expected[name])
    assert not came.startswith("FAULT"), f"{how}: {came}"
