"""Practice: a trained team adapts on training tasks and learns from what it was told there."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from maicc.baselines import method_of
from maicc.config import CollectConfig, DecisionConfig, DecisionFit, PracticeFit
from maicc.data.behaviour import chooser
from maicc.data.dataset import EpisodeFile, write_episodes
from maicc.envs import get_family
from maicc.evaluation.run_folder import files_of
from maicc.experiments import fits
from maicc.experiments.run import run
from maicc.experiments.validate import check
from maicc.files import read_json
from maicc.memory import OnlineMemory, best_and_latest
from maicc.training import PracticeData, RecordData
from maicc.training.checkpoints import load_module, weights_hash
from maicc.training.modules import DecisionModule
from maicc.training.practice_data import PracticeRuns
from maicc.types import UserError
from tests.conftest import tiny_config

FAMILY = get_family("lbf_7x7")
RECORD = 3


def practising(k: int = 0, rounds: int = 2):
    model = DecisionConfig(width=16, layers=1, heads=2, k=k, record=RECORD, labels="auto")
    config = tiny_config(
        decision=DecisionFit(model=model, batch_size=8, steps=4, share=2),
        practice=PracticeFit(rounds=rounds, runs=4, episodes=6, steps=3, batch_size=8),
    )
    config.adapt.memory.schedule = "until_solved"
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("practice") / "run"
    run(practising(), out)
    return out


@pytest.fixture(scope="module")
def runs(folder) -> PracticeRuns:
    return PracticeRuns.read(folder / "practice1.runs.npz")


def test_without_retrieval_there_is_no_embedding(folder, capsys):
    assert not (folder / "embedding.ckpt").exists()
    stages = read_json(folder / "stages.json")
    names = ["collect", "decision", "practice1: runs", "practice1", "practice2: runs", "practice2"]
    assert list(stages)[:6] == names
    assert "embedding" not in stages
    run(practising(), folder)
    assert "embedding: not trained, since nothing reads it" in capsys.readouterr().out


def test_the_last_round_acts(folder):
    config = practising()
    method = method_of("maicc")
    models = method.load(config, files_of(folder, config), FAMILY.spec, "cpu")
    hashes = {
        name: weights_hash(load_module(folder / f"{name}.ckpt", DecisionModule).net)
        for name in ("decision", "practice1", "practice2")
    }
    assert len(set(hashes.values())) == 3
    assert weights_hash(models.decision) == hashes["practice2"]
    assert models.decision.config.labels == "expert"  # `auto`, as the dataset has them


def test_runs_are_whole_adaptations_with_the_experts_actions(runs):
    rows, episodes, steps = runs.expert.shape
    assert (rows, episodes, steps) == (12, 6, 15)
    lived = runs.trajectories.step_mask
    assert (runs.expert[lived] >= 0).all()
    assert (runs.expert[~lived] == -1).all()
    assert len(set(runs.task.tolist())) == 4  # runs are spread over the training tasks
    team_rewards = runs.trajectories.rewards.reshape(4, 3, 6, 15)
    assert (team_rewards == team_rewards[:, :1]).all()


def practice_data(folder, **changes) -> PracticeData:
    options = {
        "family": "lbf_7x7", "path": str(folder / "episodes.h5"), "k": 0, "record": RECORD,
        "share": 2, "batch_size": 12, "runs": str(folder / "practice1.runs.npz"),
    }  # fmt: skip
    data = PracticeData(**{**options, **changes})
    data.setup("fit")
    return data


def test_a_query_of_a_run_has_the_record_that_its_agent_had(folder, runs):
    data, rng = practice_data(folder), np.random.default_rng(0)
    first = data.first_of_runs
    memory = OnlineMemory(12, 15, 0, FAMILY.spec.observation_size)
    expected = []  # by episode: the slots that a team would show, for each row
    for e in range(6):
        expected.append(memory.choose(RECORD, 1.0))
        parts = runs.trajectories.take((slice(None), e))
        returns = parts.return_to_go[:, 0]
        keys, zeros = np.zeros((12, 15, 0), np.float32), np.zeros(12)
        memory.store(keys, parts, returns / 2, zeros, zeros)
    seen = set()
    for _ in range(300):
        drawn = data._draw_run(rng)
        row, e = divmod(int(drawn.queries[0]) - first, 6)
        lived = drawn.memory[best_and_latest(data.team_return[None, drawn.memory], RECORD)[0]]
        assert (lived - first - row * 6).tolist() == expected[e][row].tolist()
        taken, lived_through = data.stored.take(drawn.queries), runs.trajectories
        for part, whole in zip(taken, lived_through, strict=True):
            assert (part[0] == whole[row, e, : part.shape[1]]).all()
        seen.add((row, e))
    assert len(seen) > 60
    batch = next(data.batches(0))
    assert len(batch.shown) == 12
    first = batch.shown[:6]
    assert (first[::2] == first[1::2]).all()  # half of the queries share records


def test_no_round_draws_what_another_fit_has_drawn(folder, runs):
    rounds = [practice_data(folder, practised=practised) for practised in (1, 2)]
    decision = RecordData(
        RECORD, share=2, family="lbf_7x7", path=str(folder / "episodes.h5"), k=0, batch_size=6
    )
    decision.setup("fit")
    drawn = [next(data.batches(0)).current.actions[:6] for data in (*rounds, decision)]
    assert not any(torch.equal(a, b) for a, b in combinations(drawn, 2))


def test_runs_of_a_task_that_is_held_back_whole_are_not_trained_on(folder, runs):
    data, rng = practice_data(folder), np.random.default_rng(0)
    data.hold_back = lambda episodes: episodes.task == 0
    data.setup("fit")
    drawn = [int(data._draw_run(rng).queries[0]) - data.first_of_runs for _ in range(200)]
    tasks = runs.task[np.array(drawn) // 6]
    assert set(tasks.tolist()) == set(runs.task.tolist()) - {0}
    assert len(next(data.batches(0)).shown) == 12


@pytest.mark.slow
def test_practice_with_retrieval_goes_on_after_an_interruption_as_if_unbroken(
    tmp_path, monkeypatch
):
    config = practising(k=2, rounds=1)
    run(config, tmp_path / "whole")
    real, broken = fits.fit_model, []

    def ctrl_c(name, config, files):
        if name == "practice1" and not broken:
            broken.append(name)
            raise KeyboardInterrupt
        real(name, config, files)

    monkeypatch.setattr(fits, "fit_model", ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "broken")
    assert (tmp_path / "broken" / "practice1.runs.npz").exists()
    run(config, tmp_path / "broken")
    result = [read_json(tmp_path / name / "adapt" / "result.json") for name in ("whole", "broken")]
    assert result[0]["runs"] == result[1]["runs"]


def test_practice_that_cannot_be_is_refused_first(folder, tmp_path):
    config = practising()
    for changes in ({"record": 0}, {"labels": "behaviour"}):
        model = replace(config.decision.model, **changes)
        with pytest.raises(UserError, match=r"practice\.rounds needs decision\.model\.record"):
            check(replace(config, decision=replace(config.decision, model=model)), FAMILY)
    nobody = replace(FAMILY, expert=None, explorer=None)
    config = replace(config, collect=CollectConfig(episodes=3))
    with pytest.raises(UserError, match=r"practice\.rounds learns the actions of the best"):
        check(config, nobody)


def test_damaged_runs_are_refused(folder, runs, tmp_path):
    damaged, whole = tmp_path / "runs.npz", (folder / "practice1.runs.npz").read_bytes()
    rng = np.random.default_rng(0)
    flipped = []
    for place in rng.integers(len(whole), size=30):
        one = bytearray(whole)
        one[place] ^= 255
        flipped.append(bytes(one))
    said = []
    for content in (b"", whole[:-50], *flipped):
        damaged.write_bytes(content)
        try:
            again = PracticeRuns.read(damaged)
        except UserError as error:
            said.append(str(error))
        else:  # the byte meant nothing
            assert (again.expert == runs.expert).all()
    assert len(said) > 25
    assert all("remove it" in line and "\n" not in line for line in said)
    runs._replace(expert=runs.expert[:, :, :-1]).save(damaged)
    with pytest.raises(UserError, match="not the runs of this family"):
        practice_data(folder, runs=str(damaged))


def test_labels_are_the_played_ones_where_the_dataset_has_no_others(folder, tmp_path):
    episodes = EpisodeFile(folder / "episodes.h5")
    batch = episodes.read()
    batch.expert_actions[:] = -1
    config = practising(rounds=0)
    files = files_of(tmp_path, config)
    write_episodes(files.episodes, batch, episodes.spec, episodes.tasks, episodes.behaviours)
    fits.fit_model("decision", config, files)
    assert load_module(files["decision"], DecisionModule).config.labels == "behaviour"


def test_the_choosers_rows_may_be_of_different_tasks():
    from maicc.envs import batch_env

    tasks = FAMILY.training_tasks[:3]
    env = batch_env(FAMILY, tasks)
    shown = env.reset([0, 1, 2])
    choose = chooser(FAMILY, "expert", env)
    rows = [choose(b, shown, np.random.default_rng(b)) for b in range(3)]
    assert all(set(row) == set(env.rosters[b]) for b, row in enumerate(rows))
    # alone, each gets the same
    for b, task in enumerate(tasks):
        alone = batch_env(FAMILY, [task])
        shown = alone.reset([b])
        assert chooser(FAMILY, "expert", alone)(0, shown, np.random.default_rng(b)) == rows[b]
