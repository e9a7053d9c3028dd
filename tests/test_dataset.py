from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import h5py
import numpy as np
import pytest

from maicc.data.behaviour import play
from maicc.data.dataset import EpisodeFile, write_episodes
from maicc.data.episodes import FIELDS, concatenate
from maicc.data.slices import slices
from maicc.envs import get_family
from maicc.types import Behaviour, UserError

FAMILY = get_family("lbf_7x7")
LEVELS = [Behaviour("expert", 0.3, 0.75, 0.7)]


@pytest.fixture
def episodes():
    tasks = FAMILY.training_tasks
    parts = [play(FAMILY, tasks[t], 0.3, [(0, t, e) for e in range(3)]) for t in (0, 1)]
    parts[1].task[:] = 1
    return concatenate(parts)


@pytest.fixture
def path(tmp_path, episodes):
    path = tmp_path / "episodes.h5"
    write_episodes(path, episodes, FAMILY.spec, FAMILY.training_tasks, LEVELS)
    return path


def test_what_is_written_is_read(path, episodes):
    file = EpisodeFile(path)
    assert file.spec == FAMILY.spec
    assert file.tasks == FAMILY.training_tasks
    assert file.behaviours == LEVELS
    assert len(file) == 6
    again = file.read()
    for name in FIELDS:
        assert np.array_equal(getattr(again, name), getattr(episodes, name)), name
    assert np.array_equal(file.read(slice(1, 4)).rewards, episodes.rewards[1:4])


def test_a_file_that_knows_no_expert_is_read(path):
    with h5py.File(path, "a") as file:
        del file["expert_actions"]
    assert (EpisodeFile(path).read().expert_actions == -1).all()


def test_slices(episodes):
    episodes.agent_mask[1, 2] = False  # a team of two
    stored = slices(episodes, (0.0, 2.0))
    e, agent = 2, 1
    (i,) = np.flatnonzero((stored.episode == e) & (stored.agent == agent))
    flat, length = stored.trajectories, episodes.length[e]
    assert len(stored.episode) == 6 * 3 - 1
    assert stored.agent.tolist() == [0, 1, 2, 0, 1] + [0, 1, 2] * 4
    assert stored.team_size.tolist() == [3] * 3 + [2] * 2 + [3] * 12
    assert flat.step_mask[i].sum() == length
    assert np.flatnonzero(flat.done[i]).tolist() == [length - 1]
    assert flat.return_to_go[i, 0] == pytest.approx(episodes.rewards[e].sum())
    assert np.array_equal(flat.observations[i], episodes.observations[e, :15, agent])
    assert np.array_equal(flat.actions[i], episodes.actions[e, :, agent])


def test_the_fingerprint_follows_the_content(tmp_path, episodes):
    prints = []
    for i, change in enumerate((0.0, 0.0, 1.0)):
        changed = dataclasses.replace(episodes, observations=episodes.observations + change)
        path = tmp_path / f"{i}.h5"
        write_episodes(path, changed, FAMILY.spec, FAMILY.training_tasks, LEVELS)
        prints.append(EpisodeFile(path).fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_a_refused_dataset_leaves_nothing_behind(tmp_path, episodes):
    episodes.rewards[4, 2] = np.nan
    with pytest.raises(UserError, match="field rewards, episode 4: a value is NaN"):
        write_episodes(tmp_path / "x.h5", episodes, FAMILY.spec, FAMILY.training_tasks, LEVELS)
    assert list(tmp_path.iterdir()) == []


def damage(path, name, change):
    with h5py.File(path, "r+") as file:
        values = change(file[name][:])
        del file[name]
        file[name] = values


def put(index, value):
    def change(values):
        values[index] = value
        return values

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "observations",
            put((3, 2, 1, 0), np.nan),
            "field observations, episode 3: a value is NaN",
        ),
        ("actions", put((5, 0, 0), 6), "field actions, episode 5: an action is outside 0 to 5"),
        ("length", put(2, 16), "field length, episode 2: length outside 1 to 15"),
        ("task", put(1, 9), "field task, episode 1: unknown task"),
        ("rewards", lambda v: v[:, :-1], r"field rewards has shape \(6, 14\), expected \(6, 15\)"),
    ],
)
def test_damaged_fields(path, name, change, message):
    damage(path, name, change)
    with pytest.raises(UserError, match=message) as error:
        EpisodeFile(path).read()
    assert str(path) in str(error.value)


def test_missing_field(path):
    with h5py.File(path, "r+") as file:
        del file["rewards"]
    with pytest.raises(UserError, match="field rewards is missing"):
        EpisodeFile(path).read()


def test_truncated_file(path):
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="perhaps cut short"):
        EpisodeFile(path).read()


def test_unknown_schema(path):
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = 7
    with pytest.raises(UserError, match="schema 7, this version reads schema 1"):
        EpisodeFile(path).read()


def test_missing_file_and_foreign_file(tmp_path):
    with pytest.raises(UserError, match="maicc collect"):
        EpisodeFile(tmp_path / "none.h5").read()
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["length"] = [1]
    with pytest.raises(UserError, match="not a maicc dataset"):
        EpisodeFile(tmp_path / "foreign.h5").read()


def test_dataset_of_another_family(path):
    with pytest.raises(UserError, match="family lbf_7x7 instead of lbf_9x9"):
        EpisodeFile(path).require(get_family("lbf_9x9").spec)


def changed_spec(file):
    spec = json.loads(file.attrs["spec"])
    file.attrs["spec"] = json.dumps({**spec, "later": 1})


def replaced(name, change):
    def apply(file):
        values = file[name][:]
        del file[name]
        change(file, values)

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.attrs.pop("spec"), "attribute 'spec' is missing"),
        (lambda file: file.attrs.pop("fingerprint"), "attribute 'fingerprint' is missing"),
        (changed_spec, "attribute 'spec'.*or use the version that wrote it"),
        (lambda file: file.attrs.update(tasks="[3]"), "attribute 'tasks'"),
        (lambda file: file.attrs.update(behaviours="{"), "attribute 'behaviours'"),
        (lambda file: file.attrs.update(schema=[1, 2]), "this version reads schema 1"),
        (replaced("rewards", lambda f, x: f.create_group("rewards")), "field rewards is no array"),
        (replaced("rewards", lambda f, x: f.update(rewards="text")), "field rewards is no array"),
        (
            replaced("actions", lambda f, x: f.update(actions=x + 0.5)),
            "field actions is of float64, expected int64",
        ),
        (
            replaced("agent_mask", lambda f, x: f.update(agent_mask=x.astype(int))),
            "field agent_mask is of int64, expected bool",
        ),
        (
            replaced("rewards", lambda f, x: f.update(rewards=x.astype(float) + 1e39)),
            "field rewards, episode 0: a value is NaN or infinite",
        ),
        (replaced("length", lambda f, x: f.create_group("length")), "field length"),
    ],
)
def test_headers_and_fields_of_another_kind(path, damage, message):
    with h5py.File(path, "r+") as file:
        del file.attrs["header"]  # as a file of another version, whose header nobody has changed
        damage(file)
    file = EpisodeFile(path)
    with pytest.raises(UserError, match=message):
        _ = file.fingerprint, len(file), file.read()


def test_a_header_that_was_changed_is_refused(path):
    with h5py.File(path, "r+") as file:
        file.attrs["spec"] = file.attrs["spec"].replace('"return_max": 2.0', '"return_max": 3.0')
    with pytest.raises(UserError, match="header was changed"):
        EpisodeFile(path).read()


def test_half_precision_is_read_as_what_it_is(path):
    before = EpisodeFile(path).read().observations
    with h5py.File(path, "r+") as file:
        del file["observations"]
        file["observations"] = before.astype(np.float16)
    again = EpisodeFile(path).read().observations
    assert again.dtype == np.float32
    assert np.array_equal(again, before.astype(np.float16))


def test_a_file_that_another_process_writes_is_not_damaged(path):
    code = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+'); print(); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    other.stdout.readline()
    with pytest.raises(UserError, match=r"open in another process.*close it there"):
        EpisodeFile(path).read()
    other.communicate()
    assert len(EpisodeFile(path).read()) == 6


def test_zeros_inside_a_file_are_damage(path):
    data = bytearray(path.read_bytes())
    data[2000:-2000] = bytes(len(data) - 4000)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"make it again|make the dataset again"):
        EpisodeFile(path).read()


def test_rosters_and_the_plan_are_kept(tmp_path, episodes):
    args = (episodes, FAMILY.spec, FAMILY.training_tasks, LEVELS)
    write_episodes(tmp_path / "x.h5", *args, plan="abc", rosters=FAMILY.rosters())
    write_episodes(tmp_path / "y.h5", *args)
    x, y = EpisodeFile(tmp_path / "x.h5"), EpisodeFile(tmp_path / "y.h5")
    assert (x.plan, x.rosters) == ("abc", FAMILY.rosters())
    assert (y.plan, y.rosters) == ("", [])
    assert x.fingerprint == y.fingerprint


def test_a_dataset_that_stays_on_disk_is_the_one_that_is_read(tmp_path, monkeypatch):
    """Also where parts do not divide the number of episodes, and no file is left behind."""
    monkeypatch.setattr("maicc.data.dataset._PART", 4)
    task, spec = FAMILY.training_tasks[0], FAMILY.spec
    rates = (0.0, 0.5, 1.0)
    episodes = concatenate(
        [play(FAMILY, task, rate, [(i, e) for e in range(3)]) for i, rate in enumerate(rates)]
    )
    path = tmp_path / "episodes.h5"
    write_episodes(path, episodes, spec, FAMILY.training_tasks, [Behaviour("x", 0.0, 1.0, 1.0)])
    whole, mapped = EpisodeFile(path).read(), EpisodeFile(path).mapped()
    for name in FIELDS:
        assert np.array_equal(getattr(whole, name), getattr(mapped, name)), name
    assert isinstance(mapped.observations, np.memmap)
    assert list(tmp_path.iterdir()) == [path]
    again = tmp_path / "again.h5"
    write_episodes(again, mapped, spec, FAMILY.training_tasks, [Behaviour("x", 0.0, 1.0, 1.0)])
    assert EpisodeFile(again).fingerprint == EpisodeFile(path).fingerprint


def test_slices_that_are_taken_by_hand():
    task = FAMILY.training_tasks[0]
    episodes = concatenate([play(FAMILY, task, 0.3, [(e, 0)]) for e in range(4)])
    bounds, n = (0.0, 2.0), 3
    stored = slices(episodes, bounds)
    index = np.array([[0, 4], [-1, 10]])
    taken = stored.take(index)
    longest = int(episodes.length[[0, 1, 3]].max())
    assert taken.actions.shape == (2, 2, longest)
    assert not taken.step_mask[1, 0].any()
    for place, i in (((0, 0), 0), ((0, 1), 4), ((1, 1), 10)):
        e, agent = divmod(i, n)
        assert (taken.observations[place] == episodes.observations[e, :longest, agent]).all()
        assert (taken.actions[place] == episodes.actions[e, :longest, agent]).all()
        assert taken.step_mask[place].sum() == episodes.length[e]
    more = stored.trajectories.take(np.array([5, 2]))
    both = stored.followed_by(more, stored.expert[[5, 2]], stored.task[[5, 2]])
    assert len(both) == len(stored) + 2
    one, other = both.take(np.array([12, 13, 1])), stored.take(np.array([5, 2, 1]))
    for part, expected in zip(one, other, strict=True):
        assert np.array_equal(part, expected)
    nothing = stored.take(np.empty((2, 0), int))
    assert nothing.observations.shape == (2, 0, 1, FAMILY.spec.observation_size)
