from __future__ import annotations

import numpy as np
import pytest

from maicc.memory import BlendedMemory, KeyIndex, OfflineMemory, OnlineMemory
from maicc.types import Trajectories

T, D, O = 3, 8, 2  # noqa: E741


def unit(rng, *shape):
    x = rng.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def slices(*lead, length=T, fill=0.0):
    step = np.zeros((*lead, T), np.float32)
    mask = np.broadcast_to(np.arange(T) < length, (*lead, T)).copy()
    return Trajectories(
        np.full((*lead, T, O), fill, np.float32),
        step.astype(np.int64),
        step,
        step,
        step,
        step,
        mask,
    )


def online_with(rng, rows=2, episodes=5):
    memory, keys = OnlineMemory(rows, T, D, O), []
    for e in range(episodes):
        keys.append(unit(rng, rows, T, D))
        memory.store(
            keys[-1],
            slices(rows, fill=e),
            np.full(rows, e / 10),
            np.zeros(rows),
            rng.random(rows),
        )
    return memory, np.stack(keys, 1)  # (rows, episodes, T, D)


def test_online_search_is_exact_and_stays_in_its_row():
    rng = np.random.default_rng(0)
    memory, keys = online_with(rng)
    queries = unit(rng, 2, D)
    result = memory.search(np.array([0, 1]), 1, queries, 7, np.zeros(2))
    for row in range(2):
        similarity = keys[row, :, 1] @ queries[row]
        order = np.argsort(-similarity)
        assert result.item[row].tolist() == [*order.tolist(), -1, -1]
        assert np.allclose(result.similarity[row, :5], similarity[order], atol=1e-6)


def test_online_memory_grows_and_keeps_what_it_has():
    memory, keys = online_with(np.random.default_rng(0), episodes=40)
    assert memory.count == 40
    assert np.array_equal(memory.keys[:, :40], keys)
    assert memory.trajectories.observations[1, 39, 0, 0] == 39


def test_equal_keys_online_are_taken_in_turn():
    rng = np.random.default_rng(0)
    memory, key = OnlineMemory(1, T, D, O), unit(rng, 1, T, D)
    for _ in range(6):
        memory.store(key, slices(1), np.zeros(1), np.zeros(1), rng.random(1))
    first = [memory.search(np.array([0]), 0, key[:, 0], 1, np.array([t])).item[0, 0]
             for t in rng.random(200)]  # fmt: skip
    assert set(first) == set(range(6))


def test_keys_online_that_agree_to_four_decimals_are_equal():
    memory, query = OnlineMemory(1, T, D, O), np.eye(1, D, dtype=np.float32)
    for second, order in ((0.0, 0.6), (1e-3, 0.2), (0.1, 0.0)):  # cosines 1, 1 - 5e-7 and 0.995
        key = np.zeros((1, T, D), np.float32)
        key[..., 0], key[..., 1] = np.sqrt(1 - second**2), second
        memory.store(key, slices(1), np.zeros(1), np.zeros(1), np.array([order]))
    found = [
        memory.search(np.array([0]), 0, query, 3, np.array([tie])).item[0].tolist()
        for tie in (0.0, 0.5)
    ]
    assert found == [[1, 0, 2], [0, 1, 2]]


def test_a_record_weighs_team_and_individual_return():
    memory, rng = OnlineMemory(1, T, D, O), np.random.default_rng(0)
    for team, individual in ((0.9, 0.0), (0.1, 0.8), (0.0, 0.0), (0.0, 0.0)):
        parts = np.full(1, team), np.full(1, individual), rng.random(1)
        memory.store(unit(rng, 1, T, D), slices(1), *parts)
    assert memory.choose(2, 1.0).tolist() == [[0, 3]]
    assert memory.choose(2, 0.2).tolist() == [[1, 3]]


def test_the_latest_of_a_bounded_memory_are_those_that_were_played_last():
    memory, rng = OnlineMemory(1, T, D, O, 2), np.random.default_rng(0)
    for team in (0.5, 0.8, 0.9, 0.95):  # the third takes the first one's place
        memory.store(unit(rng, 1, T, D), slices(1), np.full(1, team), np.zeros(1), rng.random(1))
    assert memory.born.tolist()[0][:2] == [3, 4]
    memory.store(unit(rng, 1, T, D), slices(1), np.full(1, 0.99), np.zeros(1), rng.random(1))
    assert memory.latest(np.zeros(1), 2).tolist() == [[0, 1]]


def test_state_is_everything():
    rng = np.random.default_rng(0)
    memory, _ = online_with(rng)
    again = OnlineMemory(2, T, D, O)
    again.load_state(memory.state(5))
    queries, rows, tie = unit(rng, 2, D), np.arange(2), rng.random(2)
    a, b = (m.search(rows, 2, queries, 5, tie) for m in (memory, again))
    assert np.array_equal(a.item, b.item)
    earlier = OnlineMemory(2, T, D, O)
    earlier.load_state(memory.state(3))
    assert earlier.count == 3


def test_a_bounded_memory_gives_up_the_worst_and_of_equals_the_oldest():
    rng = np.random.default_rng(0)
    memory = OnlineMemory(2, T, D, O, 3)
    returns = np.array([[0.2, 0.1, 0.5, 0.1, 0.2, 0.0], [0.3, 0.3, 0.3, 0.9, 0.1, 0.2]])
    places = [
        memory.store(
            unit(rng, 2, T, D), slices(2, fill=e), returns[:, e], np.zeros(2), rng.random(2)
        )
        for e in range(6)
    ]
    assert np.stack(places, 1).tolist() == [[0, 1, 2, 1, 1, 0], [0, 1, 2, 0, 1, 1]]
    assert memory.count == 3
    assert memory.trajectories.observations[:, :, 0, 0].tolist() == [[5, 4, 2], [3, 5, 2]]
    assert np.allclose(memory.history, returns)
    again = OnlineMemory(2, T, D, O, 3)
    again.load_state(memory.state(6))
    another = unit(rng, 2, T, D), slices(2, fill=6), np.full(2, 0.4), np.zeros(2), rng.random(2)
    assert memory.store(*another).tolist() == again.store(*another).tolist() == [0, 1]
    with pytest.raises(ValueError, match="can't tell what it held before"):
        memory.state(6)


@pytest.fixture
def blended():
    rng = np.random.default_rng(0)
    vectors = unit(rng, 30, T, D)
    played = np.ones((30, T), bool)
    stored = slices(30, fill=-1.0)
    offline = OfflineMemory(
        KeyIndex.build(vectors, played), stored, np.linspace(0, 1, 30), np.zeros(30),
        np.arange(30) // 10, np.arange(30) // 2, np.arange(30) % 2,
    )  # fmt: skip
    online, _ = online_with(rng)
    return BlendedMemory(offline, online, 2, 10, 1.0, "paper")


def ask(memory, offline, step=1, rng=None):
    rng = rng or np.random.default_rng(5)
    queries, Q = unit(rng, 2, D), 2
    return memory.retrieve(
        np.arange(2), step, queries, np.array(offline), rng.random(Q), rng.random((Q, memory.k))
    ), queries


def test_each_query_is_answered_by_the_memory_it_asked(blended):
    result, _ = ask(blended, [True, False])
    assert result.offline.tolist() == [True, False]
    contexts = blended.contexts(np.arange(2), result)
    team_return, task = blended.origin(np.arange(2), result)
    assert np.allclose(team_return[0], result.item[0] / 29)
    assert task[0].tolist() == (result.item[0] // 10).tolist()
    assert np.allclose(team_return[1], result.item[1] / 10)
    assert task[1].tolist() == [-1, -1]
    assert (contexts.observations[0] == -1).all()
    assert (contexts.observations[1, :, 0, 0] == result.item[1]).all()


def test_the_dataset_is_asked_until_there_is_enough_of_ones_own(blended):
    rng = np.random.default_rng(0)
    for score, margin, asked in (
        ("paper", 0.3, False),
        ("paper", np.inf, True),
        ("random", 0.3, True),
    ):
        online, _ = online_with(rng, episodes=1)
        memory = BlendedMemory(blended.offline, online, 2, 10, 1.0, score, margin)
        result, _ = ask(memory, [False, False])
        assert result.offline.tolist() == [asked, asked]
        assert (result.item >= 0).all()


def test_score_is_similarity_and_return(blended):
    result, queries = ask(blended, [True, True])
    memory = blended.offline
    candidates = memory.index.search(1, queries, 10, np.zeros(2))
    score = candidates.similarity + memory.team_return[candidates.item]
    order = np.argsort(-score, axis=1)[:, :2]
    assert np.array_equal(result.item, np.take_along_axis(candidates.item, order, 1))
    assert np.allclose(result.score, np.take_along_axis(score, order, 1))


def test_the_weight_of_individual_returns_and_the_authors_score(blended):
    offline = blended.offline
    offline.individual_return = np.random.default_rng(3).random(30)
    blended.online.individual_return[:] = np.random.default_rng(4).random((2, 1))
    blended.alpha = 0.3
    for form in ("paper", "code"):
        blended.score = form
        result, _ = ask(blended, [True, False])
        for row, (memory, at) in enumerate(((offline, ()), (blended.online, (1,)))):
            item = result.item[row]
            team, individual = memory.team_return[at][item], memory.individual_return[at][item]
            cosine = result.similarity[row]
            expected = cosine + 0.3 * team + 0.7 * individual
            if form == "code":  # individual returns of own episodes alone
                expected = (cosine + 1) / 2 + 0.3 * team + 0.7 * individual * row
            assert np.allclose(result.score[row], expected, atol=1e-6)


def test_an_absent_trajectory_shows_nothing(blended):
    played = np.ones((30, T), bool)
    played[np.arange(30) != 7, 1] = False  # one alone reached step 1
    vectors = unit(np.random.default_rng(0), 30, T, D)
    blended.offline.index = KeyIndex.build(vectors, played)
    blended.online, _ = online_with(np.random.default_rng(0), episodes=1)
    blended.margin = 0.3
    result, _ = ask(blended, [True, False])
    assert np.unique(result.item).tolist() == [0, 7]  # what there is, once more
    blended.margin = np.inf
    result, _ = ask(blended, [True, True])
    assert result.item.tolist() == [[7, -1], [7, -1]]
    assert blended.contexts(np.arange(2), result).step_mask.any(2).tolist() == [[True, False]] * 2


def test_with_too_little_of_its_own_an_agent_asks_offline(blended):
    blended.online = OnlineMemory(2, T, D, O)
    assert ask(blended, [False, False])[0].offline.all()
    rng = np.random.default_rng(1)
    for length in (T, 1):  # two episodes, but only one of them reached step 1
        blended.online.store(
            unit(rng, 2, T, D), slices(2, length=length), np.zeros(2), np.zeros(2),
            rng.random(2),
        )  # fmt: skip
    assert not ask(blended, [False, False], step=0)[0].offline.any()
    assert ask(blended, [False, False], step=1)[0].offline.all()


def test_random_control_ignores_similarity(blended):
    blended.score = "random"
    rng = np.random.default_rng(0)
    drawn = {True: set(), False: set()}
    for _ in range(200):
        result, _ = ask(blended, [True, False], rng=rng)
        drawn[True] |= set(result.item[0].tolist())
        drawn[False] |= set(result.item[1].tolist())
        assert len(set(result.item[1].tolist())) == 2
    assert drawn[True] == set(range(30))
    assert drawn[False] == set(range(5))
