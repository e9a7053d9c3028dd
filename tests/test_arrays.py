from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest

from maicc.cli import main
from maicc.data.arrays import convert_arrays
from maicc.data.behaviour import play
from maicc.data.dataset import EpisodeFile, spec_with_bounds
from maicc.data.episodes import concatenate
from maicc.envs import get_family
from maicc.types import UserError

FAMILY = get_family("lbf_7x7")


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    played = [play(FAMILY, t, 0.3, [(1, e) for e in range(5)]) for t in FAMILY.training_tasks[:3]]
    episodes = concatenate(played)
    return {
        "observations": episodes.observations,
        "actions": episodes.actions,
        "rewards": episodes.rewards,
        "length": episodes.length,
        "task": np.repeat([t.name for t in FAMILY.training_tasks[:3]], 5),
        "action_mask": episodes.action_mask,
        "terminated": episodes.terminated,
        "individual": episodes.individual_rewards,
    }


def without(arrays, *names, **changes):
    return {**{k: v for k, v in arrays.items() if k not in ("individual", *names)}, **changes}


@pytest.mark.parametrize("suffix", ["npz", "h5"])
def test_what_was_given_is_what_is_read(arrays, tmp_path, suffix):
    source, out = tmp_path / f"mine.{suffix}", tmp_path / "episodes.h5"
    given = without(arrays)
    if suffix == "npz":
        np.savez(source, **given)
    else:
        with h5py.File(source, "w") as file:
            for name, array in given.items():
                file[name] = array.astype("S") if array.dtype.kind == "U" else array
    main(["collect", "lbf_7x7", "--from-arrays", str(source), "--out", str(out)])
    read = EpisodeFile(out)
    episodes = read.read()
    for name in ("observations", "actions", "rewards", "length", "action_mask", "terminated"):
        assert np.array_equal(getattr(episodes, name), arrays[name]), name
    assert episodes.task.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert [b.name for b in read.behaviours] == [f"quintile {i}" for i in range(1, 6)]
    assert np.allclose(episodes.individual_rewards.sum(2), episodes.rewards, atol=1e-6)


def test_defaults_individual_rewards_and_smaller_arrays(arrays, tmp_path):
    source, out = tmp_path / "mine.npz", tmp_path / "episodes.h5"
    short = 12
    length = np.minimum(arrays["length"], short)
    np.savez(
        source,
        **without(
            arrays, "action_mask", "terminated",
            rewards=arrays["individual"][:, :short, :2],
            actions=np.where(
                (np.arange(short) < length[:, None])[..., None],
                arrays["actions"][:, :short, :2],
                -1,  # as padding often is
            ),
            observations=arrays["observations"][:, : short + 1, :2],
            task=np.repeat([0, 1, 8], 5), behaviour=np.tile([3, 3, 7, 7, 7], 3), length=length,
        ),
    )  # fmt: skip
    free = replace(FAMILY, return_bounds=None)
    convert_arrays(source, free, out)
    read = EpisodeFile(out)
    episodes = read.read()
    assert episodes.agent_mask.tolist() == [[True, True, False]] * 15
    expected = arrays["individual"][:, :short, :2].sum(2) * (np.arange(short) < length[:, None])
    assert np.allclose(episodes.rewards[:, :short], expected)
    assert not episodes.rewards[:, short:].any()
    assert episodes.terminated.tolist() == (length < 15).tolist()
    observed = np.arange(16) <= length[:, None]
    assert np.array_equal(episodes.action_mask.all(3)[..., :2].all(2), observed)
    assert [b.name for b in read.behaviours] == ["given 3", "given 7"]
    assert episodes.task.max() == 8
    returns = episodes.rewards.sum(1)
    assert (read.spec.return_min, read.spec.return_max) == (returns.min(), returns.max())
    telling = replace(free, reveal=lambda parameters: [1.0, 2.0]).spec  # since the dataset was made
    assert spec_with_bounds(telling, out) == replace(read.spec, hidden=2)
    assert spec_with_bounds(telling, out).hidden == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": np.full(15, "nowhere")}, "field task has 'nowhere', which is no training task"),
        ({"length": np.full(15, 40)}, "field length has 40, and 15 steps are there"),
        ({"observations": np.zeros((15, 15, 3, 8))}, "field observations has shape"),
        ({"rewards": np.zeros((15, 14))}, r"field rewards has shape \(15, 14\), expected"),
        ({"rewards": np.zeros(15)}, "field rewards has 1 dimensions"),
        ({"actions": np.full((15, 15, 3), 9)}, "an action is outside 0 to 5"),
        ({"observations": np.zeros((15, 16, 3, 9))}, "9 observation numbers do not fit"),
        ({"actions": np.full((15, 15, 3), 1.7)}, "numbers that are no integers"),
        ({"agent_mask": np.tile([False, True, True], (15, 1))}, "must come first"),
        ({"action_mask": np.zeros((15, 16, 3, 6), bool)}, "actions that its action_mask forbids"),
        ({"rewards": np.full((15, 15), 40.0)}, "outside the family's return_bounds 0 to 2"),
        (
            {
                "length": np.zeros((0,), int),
                "actions": np.zeros((0, 15, 3), int),
                "observations": np.zeros((0, 16, 3, 8)),
                "rewards": np.zeros((0, 15)),
                "task": np.zeros(0, int),
                "action_mask": np.zeros((0, 16, 3, 6)),
                "terminated": np.zeros(0),
            },
            "no episodes",
        ),
    ],
)
def test_refused(arrays, tmp_path, changes, message):
    np.savez(tmp_path / "mine.npz", **without(arrays, **changes))
    with pytest.raises(UserError, match=message):
        convert_arrays(tmp_path / "mine.npz", FAMILY, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_missing_and_damaged(arrays, tmp_path):
    np.savez(tmp_path / "mine.npz", **without(arrays, "length"))
    with pytest.raises(UserError, match="field length is missing; needed: observations, actions"):
        convert_arrays(tmp_path / "mine.npz", FAMILY, tmp_path / "out.h5")
    whole = (tmp_path / "mine.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bad.h5").write_bytes(b"nothing")
    for name in ("cut.npz", "bad.h5"):
        with pytest.raises(UserError, match="not a readable"):
            convert_arrays(tmp_path / name, FAMILY, tmp_path / "out.h5")


def test_padding_may_hold_anything(arrays, tmp_path):
    after = np.arange(16) > arrays["length"][:, None]
    rewards = np.where(after[:, 1:], np.nan, arrays["rewards"])
    observations = np.where(after[:, :, None, None], np.nan, arrays["observations"])
    actions = np.where(after[:, 1:, None], np.nan, arrays["actions"])
    masks = np.where(after[:, :, None, None], np.nan, arrays["action_mask"])
    alive = np.where(after[:, 1:, None], -1, np.ones(arrays["actions"].shape))
    given = without(arrays, rewards=rewards, observations=observations, actions=actions)
    np.savez(tmp_path / "mine.npz", **(given | {"action_mask": masks, "alive": alive}))
    convert_arrays(tmp_path / "mine.npz", FAMILY, tmp_path / "out.h5")
    read = EpisodeFile(tmp_path / "out.h5").read()
    for name in ("rewards", "observations", "actions", "action_mask"):
        assert np.array_equal(getattr(read, name), arrays[name]), name


def test_what_an_absent_agent_sees_may_be_anything(arrays, tmp_path):
    present = np.ones((15, 3))
    present[4, 2] = 0
    given = {name: arrays[name].astype(np.float64) for name in ("observations", "actions")}
    for array in given.values():
        array[4, :, 2] = np.nan
    np.savez(tmp_path / "mine.npz", **without(arrays, **given), agent_mask=present)
    convert_arrays(tmp_path / "mine.npz", FAMILY, tmp_path / "out.h5")
    read = EpisodeFile(tmp_path / "out.h5").read()
    assert not read.observations[4, :, 2].any()
    assert np.array_equal(read.observations[4, :, :2], arrays["observations"][4, :, :2])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rewards", np.inf, r"in.npz: field rewards, episode 2: a value is NaN or infinite"),
        ("rewards", 1e39, "field rewards, episode 2: a value is NaN or infinite"),
        ("observations", np.nan, "field observations, episode 2: a value is NaN or infinite"),
        ("actions", np.nan, "field actions has numbers that are no integers"),
        ("length", 2.5, "field length has numbers that are no integers"),
        ("length", 0, "field length has 0.0, expected 1 or more"),
        ("action_mask", 0.5, "field action_mask has numbers that are neither 0 nor 1"),
        ("terminated", 3, "field terminated has numbers that are neither 0 nor 1"),
    ],
)
def test_odd_numbers_are_refused(arrays, tmp_path, name, value, message):
    field = arrays[name].astype(np.float64)
    field[2] = value
    given = without(arrays, name, **{name: field})
    np.savez(tmp_path / "in.npz", **given)
    unbounded = replace(FAMILY, return_bounds=None)
    with pytest.raises(UserError, match=message):
        convert_arrays(tmp_path / "in.npz", unbounded, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_text_in_place_of_numbers_is_refused(arrays, tmp_path):
    given = without(arrays, "actions", actions=np.full(arrays["actions"].shape, "left"))
    np.savez(tmp_path / "in.npz", **given)
    with pytest.raises(UserError, match=r"in.npz: field actions is of <U4, expected numbers"):
        convert_arrays(tmp_path / "in.npz", FAMILY, tmp_path / "out.h5")


def test_unequal_shares_of_a_shared_reward_are_refused(arrays, tmp_path):
    shared = replace(FAMILY, team_reward="shared")
    each = np.repeat(arrays["rewards"][..., None], 3, 2)
    np.savez(tmp_path / "in.npz", **without(arrays, "rewards", rewards=each))
    convert_arrays(tmp_path / "in.npz", shared, tmp_path / "out.h5")
    assert np.array_equal(EpisodeFile(tmp_path / "out.h5").read().rewards, arrays["rewards"])
    each[4, 0, 1] += 1
    np.savez(tmp_path / "in.npz", **without(arrays, "rewards", rewards=each))
    with pytest.raises(UserError, match="field rewards, episode 4: team_reward=shared means"):
        convert_arrays(tmp_path / "in.npz", shared, tmp_path / "out2.h5")
