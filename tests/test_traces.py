"""Traces: what agents saw, did and remembered, in one file."""

from __future__ import annotations

import json

import numpy as np
import pytest

import maicc
from maicc.envs import batch_env
from maicc.evaluation import adapt as module
from maicc.evaluation.traces import OFFLINE, OWN, load_traces
from maicc.files import read_json
from maicc.types import UserError
from tests.commands import TINY
from tests.test_replay_page import traced_run  # noqa: F401 - a fixture


def test_a_trace_tells_what_happened(traced_run):  # noqa: F811
    traces = maicc.load_traces(traced_run)
    result = read_json(traced_run / "adapt" / "result.json")
    assert np.allclose(traces.returns, [run["returns"] for run in result["runs"][:2]])
    assert [task.to_json() for task in traces.tasks] == [r["task"] for r in result["runs"][:2]]
    # the same actions in the same games give the same observations and rewards
    family = maicc.envs.get_family("lbf_7x7")
    env = batch_env(family, traces.tasks)
    for episode in range(traces.returns.shape[1]):
        now = env.reset(traces.resets[:, episode])
        for t in range(family.max_steps):
            played = traces.played[:, episode, t]
            assert np.array_equal(played, ~now.done)
            seen = traces.observations[:, episode, t]
            assert np.array_equal(seen[played], now.observations[played])
            assert np.array_equal(traces.legal[:, episode, t][played], now.action_mask[played])
            if not played.any():
                break
            now = env.step(np.maximum(traces.actions[:, episode, t], 0))
            assert np.allclose(traces.rewards[:, episode, t], now.rewards)
    assert (traces.actions[~traces.played] == -1).all()


def test_a_trace_tells_why(traced_run):  # noqa: F811
    traces = load_traces(traced_run)
    there = traces.alive
    total = traces.probability.sum(-1)
    assert np.allclose(total[there], 1.0, atol=1e-5)
    assert (traces.probability[~traces.legal] == 0).all()
    # who neither samples nor repeats takes the most probable action
    greedy = there & ~traces.sampled & (traces.repeated < 0)
    assert np.array_equal(traces.probability[greedy].argmax(-1), traces.actions[greedy])
    assert not (traces.sampled & (traces.repeated >= 0)).any()
    run, episode, step, agent = np.nonzero(traces.repeated >= 0)
    past = traces.repeated[run, episode, step, agent]
    assert (past < episode).all()
    assert np.array_equal(
        traces.actions[run, past, step, agent], traces.actions[run, episode, step, agent]
    )
    # a record shows the latest episodes and no later ones
    assert (traces.record[:, 0] == -1).all()
    assert (traces.record[:, 1, :, 0] == 0).all()
    for episode in range(traces.returns.shape[1]):
        assert (traces.record[:, episode] < episode).all()


def test_a_trace_tells_what_was_retrieved(traced_run):  # noqa: F811
    traces = load_traces(traced_run)
    from maicc.data.dataset import EpisodeFile

    dataset = EpisodeFile(traced_run / "episodes.h5")
    episodes, (low, high) = dataset.read(), dataset.spec.bounds
    assert (traces.source[traces.alive] >= 0).all()
    assert (traces.source[:, 0][traces.alive[:, 0]] == OFFLINE).all()
    offline = traces.source == OFFLINE
    number = traces.episode[offline]
    assert np.array_equal(episodes.task[number], traces.task[offline])
    assert np.allclose((episodes.returns[number] - low) / (high - low), traces.team_return[offline])
    run, episode, step, agent, k = np.nonzero(traces.source == OWN)
    past = traces.episode[run, episode, step, agent, k]
    assert len(past)
    assert (past < episode).all()
    assert np.array_equal(traces.agent[run, episode, step, agent, k], agent)
    own_return = (traces.returns[run, past] - low) / (high - low)
    assert np.allclose(own_return, traces.team_return[run, episode, step, agent, k], atol=1e-6)
    assert traces.played[run, past, step].all()  # it reached the step


def test_an_interrupted_adaptation_leaves_the_same_trace(traced_run, tmp_path, monkeypatch):  # noqa: F811
    real, calls = module.play_episode, []
    maicc.cli.main(["adapt", str(traced_run), "--out", str(tmp_path / "whole.json")])

    def ctrl_c(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    arguments = ["adapt", str(traced_run), "--out", str(tmp_path / "x.json")]
    monkeypatch.setattr(module, "play_episode", ctrl_c)
    with pytest.raises(SystemExit):
        maicc.cli.main(arguments)
    assert not (tmp_path / "x.traces.npz").exists()
    maicc.cli.main(arguments)
    kept, whole = (load_traces(tmp_path / f"{name}.traces.npz") for name in ("x", "whole"))
    for name, value in vars(whole).items():
        assert np.array_equal(value, getattr(kept, name)), name


def test_no_trace_is_told(traced_run, tmp_path, capsys):  # noqa: F811
    out = str(tmp_path / "x.json")
    maicc.cli.main(["adapt", str(traced_run), "--out", out, "--traces", "0", "--episodes", "1"])
    assert not list(tmp_path.glob("*.npz"))
    with pytest.raises(UserError, match=r"had adapt\.traces=0"):
        load_traces(tmp_path / "x.traces.npz")
    other = tmp_path / "other.traces.npz"
    other.write_text(json.dumps({}))
    with pytest.raises(UserError, match=r"damaged \(no \.npz file\)"):
        load_traces(other)
    with pytest.raises(UserError, match=r"a trace named NAME\.traces\.npz"):
        load_traces(tmp_path / "x.json")


def test_a_rival_is_traced_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [o for o in TINY if "model.k" not in o and "record" not in o and "embedding" not in o]
    maicc.cli.main(
        ["run", "lbf_7x7", "--method", "dpt", *options, "--decision.steps=2",
         "--adapt.episodes=2", "--out", "run"]
    )  # fmt: skip
    traces = load_traces(tmp_path / "run")
    assert traces.record.shape[-1] == traces.source.shape[-1] == 0
    assert np.allclose(traces.probability.sum(-1)[traces.alive], 1.0, atol=1e-5)
    assert (tmp_path / "run" / "replay.html").exists()
