from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from maicc.cli import main
from maicc.data.behaviour import play
from maicc.envs import families, get_family, importable, register, registry, sample_tasks
from maicc.types import ObsLayout, Task, UserError


def test_built_in_families_are_listed():
    assert {"lbf_7x7", "lbf_9x9"} <= set(families())


def test_spec():
    spec = get_family("lbf_9x9").spec
    assert (spec.n_agents, spec.observation_size, spec.n_actions, spec.max_steps) == (3, 8, 6, 20)


def test_a_task_survives_json():
    family = get_family("lbf_7x7")
    task = family.held_out_tasks[3]
    again = Task(**json.loads(json.dumps(task.to_json())))
    assert family.make_env(again).food == family.make_env(task).food


def test_drawn_tasks_are_fixed_by_the_seed_and_do_not_repeat():
    family = get_family("lbf_7x7")
    first = family.draw_tasks(16, seed=1)
    assert first == family.draw_tasks(16, seed=1)
    assert first != family.draw_tasks(16, seed=2)
    assert len({task.name for task in first}) == 16
    assert family.draw_tasks(18, seed=1)[16:] == first[:2]


def test_unknown_family():
    with pytest.raises(UserError, match=r"no task family 'chess'.*lbf_7x7"):
        get_family("chess")


def test_family_by_module_and_attribute():
    family = get_family("maicc.envs.games.lbf:lbf_7x7")
    assert family.name == "maicc.envs.games.lbf:lbf_7x7"  # leads back, from a dataset or a model
    assert get_family(family.name) == family
    assert importable(family)
    with pytest.raises(UserError, match="can't be loaded"):
        get_family("no_such_module:family")
    with pytest.raises(UserError, match=r"expected a maicc\.envs\.TaskFamily"):
        get_family("maicc.envs.games.lbf:Foraging")


def test_registered_family():
    mine = dataclasses.replace(get_family("lbf_7x7"), name="mine")
    try:
        register(mine)
        assert get_family("mine") is mine
        assert not importable(mine)  # another process does not know it
        assert "mine" in families()
    finally:
        registry._registered.pop("mine")


def test_family_from_an_entry_point(monkeypatch):
    monkeypatch.setattr(registry, "_plugins", lambda: {"theirs": "maicc.envs.games.lbf:lbf_9x9"})
    assert "theirs" in families()
    assert get_family("theirs").spec.max_steps == 20


def test_a_task_of_another_family_is_refused():
    with pytest.raises(UserError, match="belongs to family lbf_9x9"):
        get_family("lbf_7x7").make_env(get_family("lbf_9x9").training_tasks[0])


def test_tasks_as_lists_and_from_a_sampler():
    draw = lambda rng: {"size": 7, "food": [int(rng.integers(1, 6)), 3], "max_steps": 15}  # noqa: E731
    training, held_out = sample_tasks(draw, training=3, held_out=2, seed=4)
    assert (training, held_out) == sample_tasks(draw, training=3, held_out=2, seed=4)
    family = dataclasses.replace(get_family("lbf_7x7"), training=training, held_out=held_out)
    names = [t.name for t in (*family.training_tasks, *family.held_out_tasks)]
    assert len(set(names)) == 5
    assert family.make_env(family.held_out_tasks[0]).food == tuple(held_out[0]["food"])
    with pytest.raises(UserError, match="gave 5 tasks, 6 are needed"):
        sample_tasks(draw, training=3, held_out=3)
    with pytest.raises(UserError, match="listed twice"):
        dataclasses.replace(family, training=[training[0], training[0]])


def test_no_held_out_task_is_the_game_of_another():
    draw = lambda rng: {"place": int(rng.integers(9))}  # noqa: E731
    row = lambda parameters: parameters["place"] // 3  # noqa: E731
    training, held_out = sample_tasks(draw, training=1, held_out=2, game=row)
    assert sorted(map(row, [*training, *held_out])) == [0, 1, 2]
    training, _ = sample_tasks(draw, training=8, held_out=0, game=row)
    assert len({task["place"] for task in training}) == 8  # training tasks may be one game
    with pytest.raises(UserError, match="gave 3 tasks, 4 are needed"):
        sample_tasks(draw, training=1, held_out=3, game=row)


def changed(**changes):
    return dataclasses.replace(get_family("lbf_7x7"), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"return_bounds": (-np.inf, np.inf)}, "return_bounds=.*expected 2 finite numbers"),
        ({"return_bounds": (0, float("nan"))}, "expected 2 finite numbers"),
        ({"return_bounds": 2.0}, "expected 2 finite numbers"),
        ({"return_bounds": (2, 1)}, "must be the lowest return and a higher one"),
        ({"max_steps": 0}, "max_steps=0, expected 1 whole numbers, at least 1"),
        ({"max_steps": 5.5}, "max_steps=5.5, expected 1 whole"),
        ({"max_steps": None}, "max_steps=None, expected 1 whole"),
        ({"sizes": (2, 2)}, "sizes=.*expected 3 whole numbers"),
        ({"sizes": (2, 2, 0)}, "at least 1"),
        ({"at_once": 0}, "at_once=0, expected 1 whole"),
        ({"training": [{"x": float("inf")}]}, "use finite numbers"),
        ({"training": [3]}, "the parameters of a task are 3, expected a dict"),
        ({"training": {"first": 1}}, "the parameters of a task are 1, expected a dict"),
        ({"training": [{"a": 1, "b": 2}, {"b": 2, "a": 1}]}, "the same task is listed twice"),
        ({"training": [{"a": 1}, {"a": "1"}]}, "two tasks have the same name"),
    ],
)
def test_numbers_and_tasks_that_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        changed(**changes)


def test_numbers_of_numpy_become_pythons():
    ours = changed(
        max_steps=np.prod((3, 5)),
        return_bounds=(np.int64(0), np.float32(2)),
        sizes=tuple(np.array([3, 8, 6])),
        layout=ObsLayout(tuple(np.array([0, 2])), (2, 1, 3), (5, np.int64(2), 1), np.int64(4)),
    )
    plain = changed(max_steps=15, return_bounds=(0, 2.0))
    assert ours.fingerprint == plain.fingerprint
    assert json.loads(json.dumps(dataclasses.asdict(ours.spec)))["max_steps"] == 15
    assert ours.task(size=np.int64(7)).parameters == {"size": 7}
    with pytest.raises(TypeError):
        ObsLayout((0, 0.5), (2, 1, 3), (5, 2, 1), 4)


@pytest.mark.parametrize("name", ["./m:f", "./m.py:f", ":f", "m:", "a b:f", "m:f:g"])
def test_a_path_is_no_name_of_a_family(name):
    with pytest.raises(UserError, match="is no MODULE:ATTRIBUTE: write my_module:my_family"):
        get_family(name)


def test_the_ending_of_a_file_is_left_out():
    with pytest.raises(UserError, match=r"leave \.py out"):
        get_family("nowhere.py:f")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_of_that_name", "No module named 'nothing_of_that_name' .*broken.py:1"),
        ("\nnames.of_nothing", r"NameError: name 'names' is not defined .*broken\.py:2"),
        ("x = (", "SyntaxError: .*broken.py, line 1"),
        ("y = 1", "AttributeError: .*has no attribute 'family'"),
    ],
)
def test_the_line_of_a_module_that_fails_is_named(tmp_path, monkeypatch, text, message):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(UserError, match=f"can't be loaded from broken:family: .*{message}"):
        get_family("broken:family")


def test_a_name_that_is_nearly_right_is_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"no task family 'lbf_8x' \(did you mean lbf_8x8\?\)"):
        get_family("lbf_8x")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "levers.py").write_text("")
    for name in ("levers", "levers.py"):
        with pytest.raises(UserError, match=r"write levers:NAME for the family NAME in levers\.py"):
            get_family(name)


def test_a_broken_family_does_not_hide_the_others(monkeypatch, capsys):
    monkeypatch.setattr(registry, "_plugins", lambda: {"theirs": "nowhere:family"})
    main(["tasks"])
    said = capsys.readouterr().out
    assert "lbf_9x9" in said
    (line,) = [line for line in said.splitlines() if line.startswith("theirs")]
    assert "can't be loaded from nowhere:family" in line


def test_only_the_order_of_the_same_agents_counts():
    family = get_family("lbf_7x7")
    first, last = family.rosters()
    for fine in ([], [first, last], [[*first, "one more"], last[:2]]):
        family.require_rosters(fine)
    with pytest.raises(UserError, match="give the agents a fixed order"):
        family.require_rosters([first, last[::-1]])


def test_returns_outside_the_bounds_are_refused_but_for_rounding():
    narrow = replace(get_family("lbf_7x7"), return_bounds=(0.0, 0.5))
    with pytest.raises(UserError, match=r"lbf_7x7, expert on task .*returns from 2 to 2, outside"):
        play(narrow, narrow.training_tasks[0], 0.0, [(0, 0)])
    with pytest.raises(UserError, match="mine: returns from 0 to 1, outside the family's return_b"):
        narrow.require_within([0.0, 1.0], "mine")
    large = replace(narrow, return_bounds=(0.0, 33330.0))
    large.require_within(np.full((1, 100), 333.3, np.float32).sum(1), "rounded")
    replace(narrow, return_bounds=None).require_within([-1e9, 1e9], "unknown")
