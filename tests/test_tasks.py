from __future__ import annotations

import dataclasses
import json

import pytest

from maicc.envs import families, get_family, importable, register, sample_tasks, tasks
from maicc.types import Task, UserError


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
        tasks._registered.pop("mine")


def test_family_from_an_entry_point(monkeypatch):
    monkeypatch.setattr(tasks, "_plugins", lambda: {"theirs": "maicc.envs.games.lbf:lbf_9x9"})
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
