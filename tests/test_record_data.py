"""The record in training: which episodes enter a memory, a record and a context."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maicc.config import CollectConfig, MemoryConfig, RetrievalConfig
from maicc.data.collect import collect
from maicc.data.dataset import EpisodeFile
from maicc.data.returns import solved
from maicc.memory import BlendedMemory, OfflineMemory, OnlineMemory
from maicc.streams import Stream
from maicc.training import RecordData
from maicc.training import retrieval_data as module
from maicc.types import Trajectories
from tests.teams import FAMILY, untrained


def stored(rows: int, returns: list[float], capacity: int = 0) -> OnlineMemory:
    memory = OnlineMemory(rows, 2, 0, 1, capacity)
    for value in returns:
        empty = Trajectories(
            np.zeros((rows, 2, 1), np.float32), np.zeros((rows, 2), np.int64),
            *(np.zeros((rows, 2), np.float32) for _ in range(4)), np.ones((rows, 2), bool),
        )  # fmt: skip
        memory.store(
            np.zeros((rows, 2, 0), np.float32), empty, np.full(rows, value), np.zeros(rows),
            np.zeros(rows),
        )  # fmt: skip
    return memory


def test_a_record_holds_the_latest_and_the_best_of_the_rest():
    assert stored(2, []).choose(4, 1.0).shape == (2, 0)
    assert stored(2, [0.5, 0.1, 0.9]).choose(4, 1.0).tolist() == [[0, 1, 2]] * 2
    memory = stored(1, [0.9, 0.1, 0.2, 0.9, 0.3, 0.0, 0.1])
    assert memory.choose(4, 1.0).tolist() == [[0, 3, 5, 6]]
    assert memory.choose(3, 1.0).tolist() == [[0, 3, 6]]
    assert memory.choose(1, 1.0).tolist() == [[3]]  # the latest among equals
    full = stored(1, [0.9, 0.1, 0.2, 0.3, 0.0, 0.1], capacity=3)
    shown = full.team_return[0, full.choose(2, 1.0)[0]]
    assert np.allclose(shown, [0.9, 0.1])  # kept are 0.9, 0.3 and, in place of 0, 0.1


@pytest.fixture
def data(tiny_run) -> RecordData:
    data = RecordData(
        record=3, share=2, family="lbf_7x7", path=str(tiny_run / "episodes.h5"),
        embedding=str(tiny_run / "embedding.ckpt"), k=3, batch_size=12,
    )  # fmt: skip
    data.setup("fit")
    return data


@pytest.mark.parametrize("n", [1, 3, 4, 11])
def test_a_batch_has_as_many_queries_as_asked(data, n):
    drawn = data._draw(np.random.default_rng(0), n, held_back=False)
    assert sum(len(part.queries) for part in drawn) == n


def test_records_are_of_the_querys_agent_in_its_task(data, tiny_run):
    episodes = EpisodeFile(tiny_run / "episodes.h5").read()
    rng, sizes, failures = np.random.default_rng(0), [], 0
    group = {item: (data.task[item], item % 3) for item in range(len(data.task))}
    for _ in range(200):
        queries, shown = data._draw_set(rng, data.share)
        assert len({group[i] for i in (*queries, *shown)}) == 1
        assert not set(queries) & set(shown)
        assert len(set(shown)) == len(shown)
        sizes.append(len(shown))
        failures += not solved(data.team_return[shown], (0.0, 2.0)).any()
    assert set(sizes) == {0, 1, 2, 3}
    assert failures > 100
    assert len(episodes) * 3 == len(data.task)
    batch = next(data.batches(0))
    assert batch.shown.shape == (12, 3)
    assert batch.shown.max() == len(batch.record.actions) - 1
    assert torch.equal(batch.shown[::2], batch.shown[1::2])  # two queries share a memory
    assert batch.current.actions.shape[0] == 12


def test_of_few_episodes_some_are_remembered(data):
    """An agent with as many episodes as share a memory would remember none."""
    data.groups = [[group[:3] for group in agents] for agents in data.groups]
    data.lived = {data._whose(group): group for agents in data.groups for group in agents}
    data.failures = 0.0
    drawn = data._draw(np.random.default_rng(0), 12, held_back=False)
    assert [len(part.queries) for part in drawn] == [1] * 12
    assert {len(part.memory) for part in drawn} == {0, 1, 2}


def test_a_batch_without_memories_trains_all_weights_too(data, monkeypatch):
    monkeypatch.setattr(data, "_shown", lambda memories: np.full((len(memories), 3), -1))
    batch = next(data.batches(0))
    assert batch.record.step_mask.sum() == 0
    model = untrained(FAMILY.spec, record=3, k=3).requires_grad_(True)
    model.loss(batch).actions.backward()
    assert model.following.weight.grad is not None


def test_batches_follow_from_the_step(data):
    whole = data.batches(0)
    batches = [next(whole) for _ in range(4)]
    again = next(data.batches(3))
    for a, b in zip(again.record, batches[3].record, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(again.contexts.actions, batches[3].contexts.actions)


def test_the_search_goes_on_where_the_nearest_are_of_the_querys_task(data, monkeypatch):
    data.retrieval = RetrievalConfig(source="other_tasks", candidates=3)
    item = np.arange(len(data.task))
    expected = data.neighbours(item, np.full(len(item), 1), np.random.default_rng(1))
    monkeypatch.setattr(module, "_OF_OTHER_TASKS", 1)
    found = data.neighbours(item, np.full(len(item), 1), np.random.default_rng(1))
    assert (found >= 0).all()
    assert np.array_equal(np.sort(found, 1), np.sort(expected, 1))


def test_the_querys_task_can_be_left_out(data):
    data.retrieval = RetrievalConfig(source="other_tasks")
    rng = np.random.default_rng(0)
    item = rng.integers(len(data.task), size=30)
    found = data.neighbours(item, np.zeros(30, int), rng)
    assert (found >= 0).all()
    assert (data.task[found] != data.task[item, None]).all()
    # with one candidate for each it is the nearest of another task
    data.k, data.retrieval = 1, RetrievalConfig(candidates=1, source="other_tasks")
    vectors = data.vectors[:, 0]
    nearest = data.neighbours(item, np.zeros(30, int), rng)[:, 0]
    for q, i in enumerate(item):
        similarity = np.where(data.task == data.task[i], -2.0, vectors @ vectors[i])
        if nearest[q] >= 0:
            assert vectors[nearest[q]] @ vectors[i] == pytest.approx(similarity.max(), abs=5e-3)


def test_contexts_of_ones_own_are_those_that_a_team_retrieves(data, tiny_run):
    data.retrieval = RetrievalConfig(source="own", memory=12)
    rng, found = np.random.default_rng(0), 0
    for _ in range(60):
        queries, remembered = data._draw_set(rng, data.share)
        T = data.vectors.shape[1]
        own = OnlineMemory(1, T, data.vectors.shape[2], FAMILY.spec.observation_size)
        for item in remembered:
            one = data.stored.trajectories.take([item])
            returns = data.team_return[[item]] / 2
            own.store(data.vectors[[item]], one, returns, np.zeros(1), np.zeros(1))
        memory = BlendedMemory(
            OfflineMemory(data.index, data.stored.trajectories, *[np.zeros(1)] * 5),
            own, 3, 50, 1.0, "paper", MemoryConfig().margin, own_only=True,
        )  # fmt: skip
        for query in queries:
            step = int(rng.integers(data.length[query]))
            contexts = data._own(query, step, remembered)
            asked = memory.retrieve(
                np.array([0]), step, data.vectors[[query], step], np.array([False]),
                np.zeros(1), np.zeros((1, 3)),
            )  # fmt: skip
            assert not asked.offline.any()
            expected = [remembered[i] if i >= 0 else -1 for i in asked.item[0]]
            if set(contexts) != set(expected):  # equal scores
                near = data.vectors[:, step] @ data.vectors[query, step]
                score = near + data.team_return / 2
                assert min(contexts) >= 0
                assert score[contexts].mean() == pytest.approx(score[expected].mean(), abs=1e-3)
            found += (contexts >= 0).any()
    assert found > 60
    batch = next(data.batches(0))
    assert batch.contexts.actions.shape[:2] == (12, 3)
    assert batch.shown.shape == (12, 3)
    assert batch.shown.max() == len(batch.record.actions) - 1
    assert torch.equal(batch.shown[::2], batch.shown[1::2])  # two queries share a memory


def test_the_hidden_part_of_a_querys_task_is_told_in_training_alone(data, tiny_run):
    tasks = EpisodeFile(tiny_run / "episodes.h5").tasks
    food = np.array([task.parameters["food"] for task in tasks], float)
    scaled = (food - food.mean(0)) / food.std(0)
    batch = next(data.batches(0))
    stream = data.batches(0)
    rng = np.random.default_rng([data.seed, Stream.RECORD_BATCHES, 0, 0])
    item = np.concatenate([part.queries for part in data._draw(rng, data.batch_size, False)])
    assert np.allclose(batch.hidden, scaled[data.task[item]], atol=1e-6)
    assert torch.equal(next(stream).hidden, batch.hidden)

    model = untrained(FAMILY.spec, record=3, k=data.k, labels="expert")
    with torch.no_grad():
        told = model.loss(batch)
        assert told.hidden.item() == pytest.approx(_error(model, batch), rel=1e-4)
        assert model.loss(batch._replace(hidden=None)).hidden is None
        silent = untrained(FAMILY.spec, record=3, k=data.k, labels="expert", hidden_weight=0.0)
        assert silent.infer is None
        silent.load_state_dict(model.state_dict(), strict=False)
        assert silent.loss(batch).hidden is None
        assert torch.equal(silent.loss(batch).actions, told.actions)  # what is told is no input


def _error(model, batch) -> float:
    """Mean squared error of the hidden part, query by query."""
    errors = []
    for q in range(len(batch.step)):
        current, contexts = batch.current.take([q]), batch.contexts.take([q])
        encoded = model.encoders.observation(current.observations)
        remembered = model.encode_record(batch.record)
        y = model._outputs(current, contexts, encoded, remembered, batch.shown[[q]])[0]
        here = current.step_mask[0] & (batch.expert[q] >= 0)
        errors.append((model.infer(y[here]) - batch.hidden[q]).square().mean(-1))
    return float(torch.cat(errors).mean())


@pytest.mark.parametrize("shown", [False, True])
def test_failures_of_those_who_know_are_not_remembered(tmp_path, shown):
    """Of the half-random expert only what succeeded is, of the random one everything."""
    path = tmp_path / "episodes.h5"
    collect(FAMILY, path, CollectConfig(episodes=6, levels=[0.0, 0.5], workers=1), seed=0)
    behaviours = EpisodeFile(path).behaviours
    assert [b.random_rate < 1 for b in behaviours] == [False, True]
    data = RecordData(family="lbf_7x7", path=str(path), record=8, k=0, informed_failures=shown)
    data.setup("fit")
    rng, seen = np.random.default_rng(0), set()
    for _ in range(300):
        memory = data._draw_set(rng, data.share).memory
        seen |= set(zip(data.stored.behaviour[memory], data.memories.missed[memory], strict=True))
    assert seen == {(0, True), (1, False)} | ({(1, True)} if shown else set())
