"""FAISS equals brute force, ties are shared out fairly, and what is saved is what is loaded."""

from __future__ import annotations

import sys
from functools import partial

import faiss
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maicc.memory import KeyIndex
from maicc.memory.index import _Step, empty_index
from maicc.models.matrix_search import MatrixSearch
from maicc.types import UserError


def unit(rng, *shape):
    x = rng.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@settings(max_examples=25, deadline=None)
@given(m=st.integers(1, 60), n=st.integers(1, 20), q=st.integers(1, 30), seed=st.integers(0, 10**6))
def test_equals_brute_force(m, n, q, seed):
    rng = np.random.default_rng(seed)
    vectors, played = unit(rng, m, 3, 8), rng.random((m, 3)) < 0.8
    index = KeyIndex.build(vectors, played)
    queries = unit(rng, q, 8)
    for t in range(3):
        result = index.search(t, queries, n, rng.random(q))
        similarity = np.where(played[:, t], queries @ vectors[:, t].T, -np.inf)
        order = np.argsort(-similarity, axis=1)[:, :n]
        n_exist = min(n, played[:, t].sum())
        assert np.array_equal(result.item[:, :n_exist], order[:, :n_exist])
        best = np.take_along_axis(similarity, order, 1)[:, :n_exist]
        assert np.allclose(result.similarity[:, :n_exist], best, atol=1e-6)
        assert (result.item[:, n_exist:] == -1).all()


def test_a_matrix_product_finds_what_faiss_finds(monkeypatch):
    monkeypatch.setattr("maicc.models.matrix_search._PRODUCTS", 500)  # several parts
    rng = np.random.default_rng(1)
    vectors, played = unit(rng, 200, 2, 8), rng.random((200, 2)) < 0.7
    vectors[100:] = vectors[:100]  # keys that are shared
    played[:, 1] = False  # a step that nobody reached
    index, queries, tie = KeyIndex.build(vectors, played), unit(rng, 30, 8), rng.random(30)
    moved = index.on_gpu(partial(MatrixSearch, device="cpu"))
    with pytest.raises(ValueError, match="add them before `on_gpu`"):
        moved.add(vectors, played, first=len(vectors))
    for t in range(2):
        expected, found = index.search(t, queries, 20, tie), moved.search(t, queries, 20, tie)
        assert np.array_equal(found.item, expected.item)
        assert np.allclose(found.similarity, expected.similarity, atol=1e-6)
    quantised = KeyIndex.build(vectors, played, "SQfp16")
    assert quantised.on_gpu(MatrixSearch).steps[0].index is quantised.steps[0].index


def test_a_matrix_product_leaves_out_what_is_too_near():
    rng = np.random.default_rng(2)
    vectors, queries = unit(rng, 300, 8), unit(rng, 20, 8)
    similarity, hits = MatrixSearch(vectors, "cpu").search(queries, 300, most=0.5)
    products = queries @ vectors.T
    for row, hit, product in zip(similarity, hits, products, strict=True):
        fine = np.sort(product[product <= 0.5])[::-1]
        assert 0 < len(fine) < 300
        assert np.allclose(row[: len(fine)], fine, atol=1e-6)
        assert np.allclose(product[hit[: len(fine)]], fine, atol=1e-6)
        assert (row[len(fine) :] == -np.inf).all()


def test_trajectories_that_share_a_key_are_taken_in_turn():
    rng = np.random.default_rng(0)
    shared, other = unit(rng, 8), unit(rng, 8)
    vectors = np.stack([shared] * 10 + [other] * 2)[:, None]
    index = KeyIndex.build(vectors, np.ones((12, 1), bool))
    assert index.steps[0].index.ntotal == 2  # one entry per distinct key
    counts = np.zeros(12)
    for tie in rng.random(400):
        item = index.search(0, shared[None], 3, np.array([tie])).item[0]
        assert len(set(item)) == 3
        counts[item] += 1
    assert counts[10:].sum() == 0
    assert (counts[:10] > 60).all()  # 120 each on average
    everything = index.search(0, shared[None], 12, np.array([0.5])).item[0]
    assert sorted(everything) == list(range(12))
    first = index.search(0, shared[None], 10, np.zeros(1)).item[0].tolist()
    assert first != sorted(first)  # where one stands in the dataset tells nothing


def test_the_example_of_the_docstring_of_search():
    keys = empty_index(3, "Flat")
    keys.add(np.eye(3, dtype=np.float32))  # a, b, c
    step = _Step(keys, np.array([0, 3, 5, 7]), np.array([4, 0, 2, 5, 1, 3, 6]))
    query = np.array([[0.6, 0.7, 0.4]], np.float32)
    candidates = KeyIndex([step]).search(0, query, 4, np.array([0.7]))
    assert candidates.item.tolist() == [[1, 5, 2, 4]]
    assert np.allclose(candidates.similarity, [[0.7, 0.7, 0.6, 0.6]])


def test_only_played_steps_have_keys():
    rng = np.random.default_rng(0)
    played = np.array([[True, True], [True, False]])
    index = KeyIndex.build(unit(rng, 2, 2, 4), played)
    assert index.search(1, unit(rng, 5, 4), 2, np.zeros(5)).item.tolist() == [[0, -1]] * 5
    assert index.draw(1, np.array([[0.1, 0.9]])).tolist() == [[0, 0]]


def test_a_step_that_nobody_reached():
    index = KeyIndex.build(np.zeros((2, 1, 4), np.float32), np.zeros((2, 1), bool))
    assert index.search(0, np.ones((1, 4), np.float32), 2, np.zeros(1)).item.tolist() == [[-1, -1]]


def test_saved_and_loaded(tmp_path):
    rng = np.random.default_rng(1)
    index = KeyIndex.build(unit(rng, 40, 2, 8), np.ones((40, 2), bool))
    with h5py.File(tmp_path / "keys.h5", "w") as file:
        index.save(file.create_group("index"))
    with h5py.File(tmp_path / "keys.h5") as file:
        again = KeyIndex.load(file["index"])
    queries, tie = unit(rng, 6, 8), rng.random(6)
    for a, b in zip(
        index.search(1, queries, 7, tie), again.search(1, queries, 7, tie), strict=True
    ):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("factory", ["Flat", "SQfp16", "IVF32,Flat;nprobe=32", "HNSW32"])
def test_keys_that_are_added_are_found_as_if_built_with_the_others(factory):
    rng = np.random.default_rng(4)
    vectors, played = unit(rng, 400, 2, 8), rng.random((400, 2)) < 0.8
    vectors[390] = vectors[395]  # equal keys among the added ones count as one
    played[[390, 395], 1] = True
    whole = KeyIndex.build(vectors, played, factory)
    grown = KeyIndex.build(vectors[:380], played[:380], factory)
    grown.add(vectors[380:], played[380:], first=380)
    queries = np.concatenate([unit(rng, 20, 8), vectors[[395], 1]])
    a, b = (index.search(1, queries, 9, np.zeros(21)) for index in (whole, grown))
    assert np.allclose(a.similarity, b.similarity, atol=1e-6)
    assert np.array_equal(np.sort(a.item[:20]), np.sort(b.item[:20]))
    assert set(b.item[20, :2]) == {390, 395}
    assert len(grown.steps[1].offsets) == len(whole.steps[1].offsets)
    assert not played[np.setdiff1d(np.arange(400), grown.steps[0].members), 0].any()
    with pytest.raises(ValueError, match="keys of 1 steps, the index has 2"):
        grown.add(vectors[:, :1], played[:, :1], first=400)


def test_recall_of_an_approximate_index_is_measured():
    rng = np.random.default_rng(2)
    centres = unit(rng, 20, 16)
    near = centres[rng.integers(20, size=12_000)] + 0.2 * rng.normal(size=(12_000, 16))
    near = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)[:, None]
    played = np.ones((12_000, 1), bool)
    exact = KeyIndex.build(near, played)
    rough = KeyIndex.build(near, played, "IVF32,Flat;nprobe=8")
    queries, tie = near[:100, 0], np.zeros(100)
    a, b = (i.search(0, queries, 50, tie).item for i in (exact, rough))
    recall = np.mean([len(set(x) & set(y)) / 50 for x, y in zip(a, b, strict=True)])
    assert rough.steps[0].index.nprobe == 8
    assert recall > 0.9


def test_half_precision_takes_half_the_room_and_finds_nearly_the_same():
    rng, tie = np.random.default_rng(3), np.zeros(30)
    vectors, queries = unit(rng, 800, 1, 64), unit(rng, 30, 64)
    exact, half = (
        KeyIndex.build(vectors, np.ones((800, 1), bool), kind) for kind in ("Flat", "SQfp16")
    )
    room = [len(faiss.serialize_index(index.steps[0].index)) for index in (exact, half)]
    assert room[1] < 0.55 * room[0]
    expected, result = (index.search(0, queries, 20, tie) for index in (exact, half))
    assert np.allclose(result.similarity, expected.similarity, atol=1e-3)
    shared = [len(set(a) & set(b)) for a, b in zip(result.item, expected.item, strict=True)]
    assert np.mean(shared) > 19


def test_a_step_with_few_keys_is_searched_exactly():
    rng = np.random.default_rng(0)
    index = KeyIndex.build(unit(rng, 5, 1, 8), np.ones((5, 1), bool), "IVF32,Flat;nprobe=8")
    assert index.search(0, unit(rng, 2, 8), 5, np.zeros(2)).item.min() == 0


def test_a_wrong_factory_string():
    with pytest.raises(UserError, match="index 'Nonsense' of width 8 can't be made"):
        KeyIndex.build(unit(np.random.default_rng(0), 5, 1, 8), np.ones((5, 1), bool), "Nonsense")


def test_missing_faiss_names_the_extras(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"maicc\[cpu\].*maicc\[gpu\]"):
        KeyIndex.build(np.ones((1, 1, 4), np.float32), np.ones((1, 1), bool))


@pytest.mark.parametrize("factory", ["IDMap,Flat", "IDMap2,Flat"])
def test_an_index_that_takes_no_plain_keys_is_refused_when_it_is_named(factory):
    with pytest.raises(UserError, match=f"index {factory!r} of width 8 can't be made"):
        empty_index(8, factory)
    assert empty_index(8, "Flat").ntotal == 0
