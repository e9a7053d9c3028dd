"""Families whose observations tell the hidden part of the task, and the proof made of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from maicc.config import CollectConfig, DecisionConfig, DecisionFit
from maicc.data.behaviour import play
from maicc.data.collect import collect
from maicc.data.dataset import EpisodeFile
from maicc.data.reveal import reveal_dataset
from maicc.envs import BatchEnv, batch_env, get_family, importable, register
from maicc.experiments import fits
from maicc.experiments.benchmark import benchmark
from maicc.experiments.proof import _NO_MEMORY, LEAST_GAP, prove
from maicc.experiments.units import with_overrides
from maicc.experiments.validate import check
from maicc.files import read_json
from maicc.types import UserError
from tests.conftest import tiny_config

FAMILY, TOLD = get_family("lbf_7x7"), get_family("lbf_7x7+revealed")
SEEDS = [(0, i) for i in range(3)]


def test_observations_end_with_the_hidden_part():
    tasks = TOLD.training_tasks[:2]
    env, plain = batch_env(TOLD, tasks), batch_env(FAMILY, FAMILY.training_tasks[:2])
    shown, hidden = env.reset([1, 2]), plain.reset([1, 2])
    assert TOLD.spec.observation_size == FAMILY.spec.observation_size + 2
    np.testing.assert_array_equal(shown.observations[..., :-2], hidden.observations)
    for b, task in enumerate(tasks):
        assert (shown.observations[b, :, -2:] == task.parameters["food"]).all()


def test_single_environments_show_the_same_as_a_batch():
    tasks = TOLD.training_tasks[:2]
    together, alone = batch_env(TOLD, tasks), BatchEnv([TOLD.make_env(task) for task in tasks])
    actions = np.full((2, 3), 1)
    for a, b in (
        (together.reset([1, 2]), alone.reset([1, 2])),
        (together.step(actions), alone.step(actions)),
    ):
        np.testing.assert_array_equal(a.observations, b.observations)


def test_policies_play_as_if_nothing_were_told():
    for policy in ("expert", "explorer", "random"):
        told = play(TOLD, TOLD.training_tasks[0], 0.3, SEEDS, policy)
        plain = play(FAMILY, FAMILY.training_tasks[0], 0.3, SEEDS, policy)
        np.testing.assert_array_equal(told.actions, plain.actions)
        np.testing.assert_array_equal(told.observations[..., :-2], plain.observations)


def test_its_name_leads_back_to_it():
    assert TOLD.name == "lbf_7x7+revealed"
    assert importable(TOLD)
    assert TOLD.held_out_tasks[0].name == FAMILY.held_out_tasks[0].name
    with pytest.raises(UserError, match="has no `reveal`"):
        replace(FAMILY, reveal=None).revealed()


def test_what_is_told_is_among_the_agents_own_numbers():
    battle = get_family("smax_protoss")
    told = replace(battle, reveal=lambda parameters: [1.0, 2.0]).revealed()
    start, count = battle.spec.layout.own
    assert told.spec.layout.own == (start, count + 2)
    first = replace(battle.layout, own=(0, 10))
    with pytest.raises(UserError, match="must come last"):
        _ = replace(told, layout=first).spec


def test_a_dataset_that_tells_is_the_one_that_would_have_been_collected(tmp_path):
    config = CollectConfig(episodes=2, levels=[0.5, 1.0], workers=1)
    for family, name in ((FAMILY, "hidden.h5"), (TOLD, "told.h5")):
        collect(family, tmp_path / name, config, seed=3)
    reveal_dataset(tmp_path / "hidden.h5", TOLD, tmp_path / "made.h5")
    made, told = (EpisodeFile(tmp_path / name) for name in ("made.h5", "told.h5"))
    assert made.fingerprint == told.fingerprint
    assert made.rosters == told.rosters != []


def tiny():
    model = DecisionConfig(width=16, layers=1, heads=2, record=2)
    decision = DecisionFit(model=model, batch_size=8, steps=4)
    return tiny_config(decision=decision)


def test_a_run_with_practice_has_controls_without(tmp_path):
    config = with_overrides(tiny(), {"practice.rounds": 1})
    check(with_overrides(config, _NO_MEMORY), get_family("lbf_7x7"), None)


def test_a_plain_number_is_no_hidden_part(tmp_path):
    register(replace(FAMILY, name="plain", reveal=lambda parameters: 1.0))
    with pytest.raises(UserError, match=r"reveal gives 1\.0 for task"):
        prove(replace(tiny(), family="plain"), {}, seeds=1, tasks=1, out=tmp_path)


def test_a_variant_cannot_have_the_name_of_a_line_of_the_proof(tmp_path):
    with pytest.raises(UserError, match="line 'oracle' of its own: rename the variant"):
        prove(tiny(), {"default": {}, "oracle": {}}, seeds=1, tasks=1, out=tmp_path)


@pytest.mark.slow
def test_proof_has_its_lines_and_is_not_repeated(tmp_path, monkeypatch):
    options = {"seeds": 1, "tasks": 3, "out": tmp_path}
    proof = prove(tiny(), {"default": {}}, **options)
    lines = {row["line"]: row for row in proof["rows"]}
    assert list(lines) == [
        "default", "memoryless", "oracle", "scripted explorer", "scripted explorer, replay",
        "random actions",
    ]  # fmt: skip
    # three episodes: the first ten and the last ten are all of them
    told = proof["gap"] >= LEAST_GAP
    assert lines["memoryless"]["shares"] == ([0, 0] if told else [None, None])
    assert lines["oracle"]["shares"] == ([1, 1] if told else [None, None])
    low, high, mean = proof["memoryless"], proof["oracle"], lines["default"]["first10"]
    if told:
        assert lines["default"]["shares"][0] == pytest.approx((mean - low) / (high - low), abs=1e-3)
    table = read_json(tmp_path / "benchmark.json")
    assert [row["variant"] for row in table["rows"]] == list(lines)
    for name in ("collect", "fit_model"):
        monkeypatch.setattr(fits, name, None)
    assert prove(tiny(), {"default": {}}, **options) == proof
    fewer = benchmark(tiny(), {"default": {}}, **{**options, "tasks": 2})
    assert [row["variant"] for row in fewer["rows"]][:2] == ["default", "scripted explorer"]


def test_a_family_without_reveal_is_refused_before_work(tmp_path):
    config = tiny()
    config.family = "smax_protoss"
    with pytest.raises(UserError, match="give the TaskFamily one"):
        prove(config, {"default": {}}, seeds=1, tasks=1, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
