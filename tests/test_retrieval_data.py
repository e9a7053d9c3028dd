from __future__ import annotations

import errno

import numpy as np
import pytest
import torch

from maicc.config import RetrievalConfig
from maicc.data.dataset import EpisodeFile
from maicc.training.retrieval_data import RetrievalData
from maicc.types import UserError


@pytest.fixture
def data(tiny_run):
    data = RetrievalData(
        "lbf_7x7", str(tiny_run / "episodes.h5"), str(tiny_run / "embedding.ckpt"), 3, batch_size=8
    )
    data.setup("fit")
    return data


def test_neighbours_by_brute_force(data):
    """Outside the own episode, in the stated order of preference; every trajectory a candidate."""
    data.retrieval = RetrievalConfig(candidates=len(data.length))
    vectors, mask = data.vectors, data.stored.trajectories.step_mask
    rng = np.random.default_rng(0)
    item = rng.integers(len(vectors), size=20)
    step = (rng.random(20) * data.length[item]).astype(int)
    found = data.neighbours(item, step, rng)
    for q in range(20):
        assert (found[q] // 3 != item[q] // 3).all()
        similarity = vectors[:, step[q]] @ vectors[item[q], step[q]]
        similarity[~mask[:, step[q]]] = -np.inf
        similarity[item[q] // 3 * 3 : item[q] // 3 * 3 + 3] = -np.inf
        no_better = data.team_return <= data.team_return[item[q]]
        score = (similarity + 1) / 2 + no_better + (no_better & (similarity < 0.9))
        # keys that agree to a thousandth count as equal
        assert (score[found[q]] >= np.sort(score)[-3] - 4e-3).all()


def test_contexts_are_found_behind_what_is_held_back(data):
    """With few candidates, so that the nearest of them are all held back."""
    data.retrieval = RetrievalConfig(candidates=3)
    data.held = np.ones(len(data.length), bool)
    shown = np.arange(0, len(data.length), len(data.length) // 5)
    data.held[shown] = False
    item = np.flatnonzero(data.held)
    found = data.neighbours(item, np.zeros(len(item), int), np.random.default_rng(0))
    assert np.isin(found, shown).all()


def test_what_an_index_does_not_find_is_no_trajectory(data):
    """An approximate index gives -1 where it has looked at too few cells."""
    search, asked = data.index.search, []

    def little(step, queries, n, tie):
        asked.append(n)
        found = search(step, queries, n, tie)
        found.item[:, 5:], found.similarity[:, 5:] = -1, -1.0
        return found

    data.index.search = little
    data.held = np.arange(len(data.length)) == len(data.length) - 1  # where -1 would point to
    item = np.arange(20)
    found = data._candidates(0, item, np.zeros(20))
    assert ((found.item >= 0).sum(1) >= 2).all()
    assert (found.item[:, 5:] == -1).all()
    assert len(asked) == 1, "it does not ask on for what is not there"


def test_other_tasks_need_a_second_task(data):
    data.retrieval = RetrievalConfig(source="other_tasks")
    data.use(None, data.stored)
    with pytest.raises(UserError, match="other_tasks needs two training tasks"):
        data.use(None, data.stored, data.stored.task != 3)


def test_a_resumed_fit_sees_the_same_batches(data):
    whole = data.batches(0)
    batches = [next(whole) for _ in range(70)]
    for start in (1, 63, 64, 69):
        again = next(data.batches(start))
        for a, b in zip(again.contexts, batches[start].contexts, strict=True):
            assert torch.equal(a, b)
        assert torch.equal(again.current.actions, batches[start].current.actions)


def test_processes_see_different_batches(data):
    first = next(data.batches(0))
    assert not torch.equal(first.step, next(data.batches(0, rank=1)).step)


def test_queries_end_inside_their_trajectory(data):
    batch = next(data.batches(0))
    assert batch.current.step_mask.gather(1, batch.step[:, None]).all()


def test_the_best_behaviour_policys_actions_come_along(data, tiny_run):
    batch, stored = next(data.batches(0)), EpisodeFile(tiny_run / "episodes.h5").read()
    shape = batch.current.actions.shape
    for row in range(len(batch.step)):
        steps = int(batch.current.step_mask[row].sum())
        seen = batch.current.observations[row, :steps].numpy()
        same = [  # episodes and agents with these observations throughout
            (e, a)
            for e in np.flatnonzero(stored.length == steps)
            for a in range(3)
            if np.array_equal(stored.observations[e, :steps, a], seen)
        ]
        labels = {tuple(stored.expert_actions[e, :steps, a]) for e, a in same}
        assert tuple(batch.expert[row, :steps].tolist()) in labels
    assert batch.expert.shape == shape
    assert (batch.expert != batch.current.actions).any()


def test_k_larger_than_the_memory(tiny_run):
    data = RetrievalData(
        "lbf_7x7", str(tiny_run / "episodes.h5"), str(tiny_run / "embedding.ckpt"), k=60
    )
    with pytest.raises(UserError, match="k=60 trajectories can't be chosen from 50 candidates"):
        data.setup("fit")


def test_keys_are_kept_by_content(tiny_run, tmp_path):
    """Another checkpoint or dataset never reads keys that are not its own."""
    from maicc.training.checkpoints import load_module
    from maicc.training.modules import EmbeddingModule
    from maicc.training.offline_keys import content_hash, offline_keys

    dataset = EpisodeFile(tiny_run / "episodes.h5")
    net = load_module(tiny_run / "embedding.ckpt", EmbeddingModule).net
    first = content_hash(net, dataset, "Flat")
    assert (tiny_run / f"keys-{first[:16]}.h5").exists()
    assert content_hash(net, dataset, "HNSW32") != first
    keys = offline_keys(net, dataset, tiny_run)
    made = offline_keys(net, dataset, tmp_path)
    assert np.array_equal(keys.vectors, made.vectors)
    with torch.no_grad():
        net.encoders.outcome.bias += 1
    assert content_hash(net, dataset, "Flat") != first


def test_keys_that_cannot_be_kept_are_used_all_the_same(tiny_run, tmp_path, monkeypatch, capsys):
    from maicc.training.checkpoints import load_module
    from maicc.training.modules import EmbeddingModule
    from maicc.training.offline_keys import offline_keys

    net = load_module(tiny_run / "embedding.ckpt", EmbeddingModule).net
    dataset = EpisodeFile(tiny_run / "episodes.h5")

    def read_only(path):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    kept = offline_keys(net, dataset, tiny_run)
    monkeypatch.setattr("maicc.training.offline_keys.hdf5_to_write", read_only)
    keys = offline_keys(net, dataset, tmp_path)
    assert np.array_equal(keys.vectors, kept.vectors)
    assert "the keys are not kept" in capsys.readouterr().out
    assert list(tmp_path.glob("*.h5")) == []
