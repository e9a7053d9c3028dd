from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace

import numpy as np
import pytest

from maicc.data.returns import solved
from maicc.envs import get_family, register
from maicc.experiments import fits, units
from maicc.experiments.benchmark import benchmark, gather
from maicc.experiments.plan import frozen_tasks, plan
from maicc.experiments.stages import Clock, run_stage
from maicc.experiments.units import with_overrides
from maicc.experiments.yardsticks import run_explorers
from maicc.files import write_json
from maicc.report.marl_eval import marl_eval
from maicc.report.table import THRESHOLDS, make_table, markdown, table_cells, table_row
from maicc.training.episode_data import EpisodeData
from maicc.types import Task, UserError
from tests.conftest import tiny_config

FAMILY = get_family("lbf_7x7")
VARIANTS = {
    "default": {},
    "beta_0": {"adapt.memory.schedule": "fixed", "adapt.memory.beta": 0.0},
    "no_context": {"decision.model.k": 0},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark")
    return out, benchmark(tiny_config(), VARIANTS, seeds=2, tasks=2, out=out)


@pytest.mark.slow
def test_units_share_what_they_can(finished):
    out, _ = finished
    count = lambda pattern: len(list((out / "models").rglob(pattern)))  # noqa: E731
    assert count("*.h5") - count("keys-*.h5") == 2  # one dataset per seed
    assert count("embedding.ckpt") == count("keys-*.h5") == 2
    assert count("decision.ckpt") == 4  # with and without context
    assert len(list((out / "results").rglob("seed*.json"))) == 6


@pytest.mark.slow
def test_a_second_call_repeats_nothing_and_gives_the_same_table(finished, monkeypatch):
    out, table = finished
    for name in ("collect", "fit_model"):
        monkeypatch.setattr(fits, name, None)
    again = benchmark(tiny_config(), VARIANTS, seeds=2, tasks=2, out=out)
    assert again == table


@pytest.mark.slow
def test_all_units_play_the_same_tasks(finished):
    out, table = finished
    for path in (out / "results").rglob("seed*.json"):
        names = [run["task"]["name"] for run in json.loads(path.read_text())["runs"]]
        assert names == table["tasks"]
    explorers = ["scripted explorer", "scripted explorer, replay"]
    assert [r["variant"] for r in table["rows"]] == [*VARIANTS, *explorers]
    assert all(row["runs"] == 4 for row in table["rows"])
    assert "<svg" in (out / "report.html").read_text()
    assert (out / "curves.svg").read_text() in (out / "report.html").read_text()
    assert (out / "profiles.svg").read_text() in (out / "report.html").read_text()
    assert (out / "benchmark.md").read_text() == markdown(table)
    (tasks,) = json.loads((out / "marl_eval.json").read_text()).values()
    assert set(tasks) == set(table["tasks"])
    assert all(list(a) == list(VARIANTS) for a in tasks.values())
    assert all(list(runs) == ["run_0", "run_1"] for a in tasks.values() for runs in a.values())


@pytest.mark.slow
def test_behaviours_play_the_same_tasks(finished):
    out, table = finished
    again = benchmark(tiny_config(), VARIANTS, seeds=2, tasks=2, out=out, behaviours=True)
    shown = {row["variant"]: row for row in again["rows"]}
    best = shown["behaviour: expert, aim 100%"]
    assert (best["runs"], best["episodes"], best["last10"], best["solved_last10"]) == (2, 20, 2, 1)
    assert shown["behaviour: expert, aim 0%"]["last10"] < 1
    path = out / "results" / "behaviours.json"
    kept = json.loads(path.read_text())
    for row in kept["rows"].values():
        assert [run["task"]["name"] for run in row["runs"]] == table["tasks"]
    kept["described"]["dataset"] = "another"
    path.write_text(json.dumps(kept))
    assert benchmark(tiny_config(), VARIANTS, seeds=2, tasks=2, out=out) == table
    path.unlink()


def test_frozen_tasks():
    held_out = {task.name for task in FAMILY.held_out_tasks}
    ours = [task.name for task in frozen_tasks(FAMILY, 10, "held_out")]
    assert ours == [task.name for task in frozen_tasks(FAMILY, 10, "held_out")]
    assert set(ours) <= held_out
    papers = {task.name for task in frozen_tasks(FAMILY, 40, "all")}
    assert papers & held_out
    assert papers - held_out


def test_table_row_by_hand():
    returns = np.array([[0.0] * 10 + [2.0] * 10, [0.0] * 10 + [1.0] * 10])
    row = table_row(returns, np.array(["a", "b"]), (0.0, 2.0))
    assert (row["runs"], row["episodes"]) == (2, 20)
    assert (row["first10"], row["last10"], row["last"]) == (0.0, 1.5, 1.5)
    assert row["regret_per_episode"] == 1.25
    assert row["solved_last10"] == 0.5
    assert (row["found"], row["kept"]) == (11, 1.0)
    assert row["episodes_to_85"] is None
    assert row["last10_iqm_ci95"] is None  # one run of each task: nothing to resample
    row = table_row(returns, np.array(["a", "a"]), (0.0, 2.0))
    assert row["last10_iqm_ci95"] == [1.0, 2.0]


def test_profile_by_hand():
    returns = np.repeat([[0.0], [1.0], [1.0], [2.0]], 3, 1)
    row = table_row(returns, np.array(["a", "b", "c", "d"]), (0.0, 2.0))
    assert list(row["profile"]) == ["share"]  # one run of each task: nothing to resample
    share = dict(zip(THRESHOLDS.tolist(), row["profile"]["share"], strict=True))
    assert (share[0.0], share[0.48], share[0.5], share[0.98], share[1.0]) == (
        0.75,
        0.75,
        0.25,
        0.25,
        0,
    )
    models = np.array([0, 0, 1, 1])
    row = table_row(returns, np.array(["a", "b", "a", "b"]), (0.0, 2.0), models)
    assert row["last10_iqm_ci95"] == [0.0, 2.0]  # of model 0's run of 0 alone to model 1's of 2
    at = THRESHOLDS.tolist().index(0.5)  # only model 1 on task b is above, drawn alone 1 in 16
    ends = row["profile"]["low"][at], row["profile"]["high"][at]
    assert ends == (0.0, 1.0)


def test_more_regret_than_the_first_row_by_hand():
    def results(*seeds):
        return [
            {"runs": [{"task": {"name": "ab"[i]}, "returns": r} for i, r in enumerate(seed)]}
            for seed in seeds
        ]

    rows = {
        "first": results([[2.0, 2.0], [1.0, 2.0]], [[2.0, 2.0], [2.0, 2.0]]),
        "same": results([[2.0, 2.0], [2.0, 1.0]], [[2.0, 2.0], [2.0, 2.0]]),
        "worse": results([[1.0, 1.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]),
        "one seed": results([[1.0, 1.0], [1.0, 1.0]]),
    }
    tasks = [Task("family", name, {}) for name in "ab"]
    table, _ = make_table("family", [0, 1], tasks, rows, (0.0, 2.0))
    first, same, worse, one = table["rows"]
    assert "more_regret" not in first
    assert (same["more_regret"], same["more_regret_ci95"]) == (0.0, [0.0, 0.0])
    # task by task 1.0 and 0.5 of one seed, 1.5 and 1.5 of the other; 0.5 alone is drawn 1 in 16
    assert (worse["more_regret"], worse["more_regret_ci95"]) == (1.125, [0.5, 1.5])
    assert table_cells(worse)[-2] == "+1.12 [+0.50, +1.50]"
    more_tasks = [Task("family", name, {}) for name in "aba"]  # more than are held out
    again = {
        name: [
            {"runs": [{"task": {"name": t.name}, "returns": [r, r]} for t in more_tasks]}
            for r in returns
        ]
        for name, returns in (("first", [2.0, 2.0]), ("second", [1.0, 1.5]))
    }
    table, _ = make_table("family", [0, 1], more_tasks, again, (0.0, 2.0))
    assert table["rows"][1]["more_regret_ci95"] == [0.5, 1.0]
    assert "more_regret" not in one, "other runs than those of the first row"
    half = {"first": rows["one seed"], "second": rows["one seed"]}
    table, _ = make_table("family", [0, 1], tasks, half, (0.0, 2.0))
    assert "more_regret" not in table["rows"][1], "they may be of different seeds"
    single = {name: results([[2.0, value]]) for name, value in (("first", 2.0), ("second", 1.0))}
    table, _ = make_table("family", [0], tasks[:1], single, (0.0, 2.0))
    assert "more_regret" not in table["rows"][1], "one run has no interval"


def test_the_explorer_of_another_benchmark_is_no_row(tmp_path):
    one, other = (
        plan(tiny_config(family=name), VARIANTS, seeds=1, tasks=2, out=tmp_path)
        for name in ("lbf_7x7", "lbf_levels")
    )
    run_explorers(one)
    assert list(gather(one)[1]) == ["scripted explorer", "scripted explorer, replay"]
    assert list(gather(other)[1]) == []
    register(replace(get_family("lbf_7x7"), name="lbf_mean", team_reward="mean"))
    paid_less = plan(tiny_config(family="lbf_mean"), VARIANTS, seeds=1, tasks=2, out=tmp_path)
    paid_less = replace(paid_less, tasks=one.tasks)  # of other rules
    assert list(gather(paid_less)[1]) == []


def test_an_explorer_with_a_replay_repeats_what_it_found(tmp_path):
    config = tiny_config(family="lbf_9x9")
    config.adapt.episodes = 12
    work = plan(config, {"default": {}}, seeds=2, tasks=3, out=tmp_path)
    run_explorers(work)
    _, curves = gather(work)
    plain, replay = (solved(returns, (0.0, 2.0)) for returns in curves.values())
    found = plain.argmax(1)
    assert plain.any(1).all()
    assert (replay.argmax(1) == found).all(), "the first success is the same"
    later = np.arange(12) > found[:, None]
    assert replay[later].all()
    assert not plain[later].all()


def test_results_for_marl_eval():
    def result(*runs):
        named = [{"task": {"name": name}, "returns": returns} for name, returns in runs]
        return {"runs": named}

    first = result(("a", [0.0, 1.0, 2.0]), ("b", [1.0, 1.0, 1.0]), ("a", [0.5, 0.0, 0.0]))
    tasks = marl_eval("family", {"x": [first, first], "y": [first]})["family"]
    assert {task: {n: len(runs) for n, runs in a.items()} for task, a in tasks.items()} == {
        "a": {"x": 2, "y": 1},
        "b": {"x": 2, "y": 1},
    }
    run = tasks["a"]["x"]["run_1"]
    assert list(run) == ["step_0", "step_1", "step_2", "absolute_metrics"]
    assert run["step_1"] == {"step_count": 2, "mean_episode_returns": [1.0, 0.0]}
    assert run["absolute_metrics"] == {"mean_episode_returns": [0.0, 1.0, 2.0, 0.5, 0.0, 0.0]}
    long = result(("a", list(range(200))))
    run = marl_eval("family", {"x": [long]})["family"]["a"]["x"]["run_0"]
    counts = [step["step_count"] for name, step in run.items() if name.startswith("step")]
    assert (len(counts), counts[0], counts[-1]) == (50, 1, 200)
    assert run["step_49"]["mean_episode_returns"] == [199]
    assert run["absolute_metrics"]["mean_episode_returns"] == list(range(190, 200))


def test_the_threshold_is_on_the_way_from_the_lowest_to_the_highest_return():
    returns = np.tile(np.repeat([-50.0, -5.0], 10), (2, 1))
    row = table_row(returns, np.array(["a", "b"]), (-50.0, -5.0))
    assert (row["episodes_to_85"], row["solved_last10"]) == (15, 1.0)
    assert row["regret_per_episode"] == 22.5


def test_what_a_method_does_not_read_repeats_nothing(tmp_path):
    def results(method, **changes):
        config = tiny_config(method=method)
        before = units.Unit("x", config, (), tmp_path).result
        changed = with_overrides(config, changes)
        return before == units.Unit("x", changed, (), tmp_path).result

    assert results("maicc", **{"adapt.memory.cache_gib": 2.0, "adapt.training_runs": 1})
    assert results("at", **{"adapt.runs": 3})
    with pytest.raises(UserError, match=r"adapt\.memory\.alpha is no option of method at"):
        results("at", **{"adapt.memory.alpha": 0.5})
    assert not results("maicc", **{"adapt.memory.alpha": 0.5})
    assert not results("at", **{"adapt.explore": "greedy"})


@pytest.mark.slow
def test_a_stage_lets_go_of_the_dataset(tmp_path, monkeypatch):
    """Or the next one would hold it twice."""
    real, read = EpisodeData.setup, []

    def setup(self, stage):
        read.append(weakref.ref(self))
        real(self, stage)

    monkeypatch.setattr(EpisodeData, "setup", setup)
    unit = units.Unit("x", tiny_config(), (), tmp_path)
    collecting, embedding, *_ = unit.stages()
    unit.run(collecting, 1)
    gc.disable()
    try:
        run_stage(embedding, Clock(tmp_path / "stages.json"))
        assert [data() for data in read] == [None]
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 5}, "variant odd sets seed, which is the same for all variants"),
        ({"adapt.runs": 3}, r"variant odd sets adapt\.runs"),
        ({"decision.stepz": 1}, r"variant odd: decision\.stepz is no option of method maicc"),
        ({"decision.steps": "x"}, r"variant odd: decision\.steps='x', expected int like 6"),
        ({"family": "lbf_9x9"}, "variant odd sets family=lbf_9x9, and all play lbf_7x7"),
    ],
)
def test_options_that_are_no_variants_are_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        plan(tiny_config(), {"odd": options}, seeds=2, tasks=2, out=tmp_path)


def test_overrides():
    config = tiny_config()
    changed = with_overrides(config, {"decision.model.k": 5, "adapt.memory.alpha": 0})
    assert (changed.decision.model.k, changed.adapt.memory.alpha) == (5, 0.0)
    assert config.decision.model.k == 3
    for wrong, message in (
        ({"decision.model.kk": 1}, "is no option"),
        ({"nonsense.k": 1}, "is no option"),
        ({"decision.model.k": "many"}, "expected int"),
        ({"adapt.memory.schedule": "decya"}, "schedule='decya' is not one of: until_solved"),
    ):
        with pytest.raises(UserError, match=message):
            with_overrides(config, wrong)


def test_a_family_without_held_out_tasks_is_refused_before_work(tmp_path):
    register(replace(FAMILY, name="lbf_trained", held_out=[]))
    with pytest.raises(UserError, match="lbf_trained: no training or no held-out tasks"):
        plan(tiny_config(family="lbf_trained"), VARIANTS, seeds=1, tasks=2, out=tmp_path)


def write_result(unit, returns):
    runs = [{"task": task.to_json(), "returns": returns} for task in unit.tasks]
    write_json(unit.result, {"runs": runs, "adapt_seconds": 1.0})


def test_where_no_bounds_are_known_the_best_return_is_the_maximum(tmp_path):
    register(replace(FAMILY, name="lbf_unbounded", return_bounds=None, expert=None))
    config = tiny_config(family="lbf_unbounded")
    work = plan(config, {"default": {}, "no_context": {}}, seeds=1, tasks=2, out=tmp_path)
    for unit, returns in zip(work.units, ([0.5, 1.5], [-1.0, 1.0]), strict=True):
        write_result(unit, returns)
    table, _ = gather(work)
    assert (table["return_min"], table["return_max"]) == (-1.0, 1.5)
    assert [row["regret_per_episode"] for row in table["rows"]] == [0.5, 1.5]


def test_a_variant_may_be_called_as_behaviours_are(tmp_path):
    work = plan(tiny_config(), {"behaviour_cloning": {}}, seeds=1, tasks=2, out=tmp_path)
    write_result(work.units[0], [0.0, 2.0])
    assert list(gather(work)[1]) == ["behaviour_cloning"]
