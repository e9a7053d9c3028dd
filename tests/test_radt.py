"""RADT: pieces, keys, and what is looked up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maicc.baselines.madt import MADTModule
from maicc.baselines.radt import RADTModule
from maicc.baselines.radt_pieces import RADTData, around, ends, keys, minmax
from maicc.experiments.run import run
from maicc.training.checkpoints import load_module
from maicc.types import Trajectories
from tests.conftest import tiny_config
from tests.rivals import play


def test_keys_of_radt_average_the_latest_states():
    states = torch.randn(2, 6, 4)
    made = keys(states, 3)
    expected = torch.nn.functional.normalize(states[:, 2:5].mean(1), dim=-1)
    assert torch.allclose(made[:, 4], expected, atol=1e-6)
    first = torch.nn.functional.normalize(states[:, 0], dim=-1)
    assert torch.allclose(made[:, 0], first, atol=1e-6)


def test_pieces_by_hand():
    played = np.array([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]], bool)
    assert ends(played, 2).astype(int).tolist() == [[0, 1, 0, 1, 1, 0], [0, 1, 0, 1, 0, 1]]
    assert around(np.array([3]), 8, 2).astype(int).tolist() == [[0, 0, 1, 1, 1, 1, 0, 0]]
    valid = np.array([[True, True, False, True]])
    scaled = minmax(np.array([[1.0, 3.0, 9.0, 2.0]]), valid)
    assert scaled.tolist() == [[0.0, 1.0, -np.inf, 0.5]]


@pytest.fixture(scope="module")
def retriever(tmp_path_factory):
    config = tiny_config(method="radt")
    folder = tmp_path_factory.mktemp("radt")
    run(config, folder)
    return folder


@pytest.mark.slow
def test_radt_never_retrieves_its_own_episode_nor_a_near_copy(retriever, monkeypatch):
    data = RADTData("lbf_7x7", str(retriever / "episodes.h5"), str(retriever / "retriever.ckpt"), 4)
    data.setup("fit")
    item = np.arange(len(data.length))
    step = data.length - 1
    kept = np.ones((len(item), 4), bool)
    monkeypatch.setattr(
        "maicc.baselines.radt_pieces.NEAR_COPY", 2.0
    )  # barely trained: all are near
    piece = data.retrieve(item, step, kept)
    assert (piece >= 0).all()
    assert (data.episode[data.item[piece]] != data.episode[item]).all()
    monkeypatch.setattr("maicc.baselines.radt_pieces.NEAR_COPY", -2.0)
    assert (data.retrieve(item, step, kept) == -1).all()


@pytest.mark.slow
def test_short_queries_get_any_piece_of_their_task(retriever):
    data = RADTData("lbf_7x7", str(retriever / "episodes.h5"), str(retriever / "retriever.ckpt"), 4)
    data.setup("fit")
    item, rng = np.arange(len(data.length)), np.random.default_rng(0)
    drawn = np.stack([data.any_of_task(item, rng) for _ in range(400)])
    for i in item[::9]:
        pieces = set(drawn[:, i].tolist())
        of_task = np.flatnonzero(data.task[data.item] == data.task[i])
        others = of_task[data.episode[data.item[of_task]] != data.episode[i]]
        assert pieces == {-1, *others.tolist()}
    whole = RADTData(
        "lbf_7x7", str(retriever / "episodes.h5"), str(retriever / "retriever.ckpt"), 4,
        short_query=99,
    )  # fmt: skip
    whole.setup("fit")
    whole.retrieve = None  # nothing is searched
    batch = next(whole.batches(0))
    assert batch.piece.any(1).sum() > 70


@pytest.mark.slow
def test_radt_retrieves_what_a_search_one_by_one_retrieves(retriever, monkeypatch):
    data = RADTData("lbf_7x7", str(retriever / "episodes.h5"), str(retriever / "retriever.ckpt"), 4)
    data.setup("fit")
    pieces = keys(torch.from_numpy(data.states), 4).numpy()[data.item, data.end]
    near = float(np.quantile(pieces[:40] @ pieces.T, 0.9))  # many are nearer
    monkeypatch.setattr("maicc.baselines.radt_pieces.NEAR_COPY", near)
    item = np.arange(0, len(data.length), 7)
    chosen = data.retrieve(item, data.length[item] - 1, np.ones((len(item), 4), bool))
    for query, piece in zip(item, chosen, strict=True):
        key = keys(torch.from_numpy(data.states[query : query + 1]), 4)[0, data.length[query] - 1]
        similarity = pieces @ key.numpy()
        similarity[similarity > near] = -np.inf
        similarity[data.episode[data.item] == data.episode[query]] = -np.inf
        best = np.argsort(-similarity, kind="stable")[:50]
        best = best[np.isfinite(similarity[best])]
        assert (piece >= 0) == (len(best) > 0)
        if len(best):
            low, high = similarity[best].min(), similarity[best].max()
            score = (similarity[best] - low) / max(high - low, 1e-9)
            score += data.task[data.item[best]] == data.task[query]
            (at,) = np.flatnonzero(best == piece)
            assert score[at] >= score.max() - 1e-3


@pytest.mark.slow
def test_radt_looks_up_the_best_of_its_own_past_and_nothing_at_first(retriever):
    module = load_module(retriever / "decision.ckpt", RADTModule)
    team = module.team([0, 1], 9)
    rows, query = np.arange(6), np.eye(16, dtype=np.float32)[:6]
    assert (team.look_up(rows, query)[0] == -1).all()
    play(team, 3)
    team.online.keys[:] = 0.0
    team.online.keys[:, 1, :, 0] = 1.0  # all alike to the first query, and equally unlike others
    team.online.team_return[:] = [[0.1, 0.2, 0.9, *[0] * (team.online.team_return.shape[1] - 3)]]
    episode, end = team.look_up(rows, query)
    assert episode[0] == 1  # the only one that is like it
    assert (episode[1:] == 2).all()  # the best of equals
    assert team.online.trajectories.step_mask[rows, episode][rows, end].all()


@pytest.mark.slow
def test_radt_acts_on_what_it_kept_as_on_what_it_reads_anew(retriever, monkeypatch):
    team = load_module(retriever / "decision.ckpt", RADTModule).team([0, 1], 9)
    rows, found, checked = [], [], []
    real, look_up = team.net.forward, team.look_up

    def asked(active, query):
        rows[:], found[:] = [active], look_up(active, query)
        return found

    def both(current, read, piece, seen):
        logits = real(current, read, piece, seen)
        if team.episode:
            past = [part[rows[0], found[0]] for part in team.online.trajectories]
            read = team.net.read(team._tensors(Trajectories(*past)))
        assert torch.allclose(logits, real(current, read, piece), atol=1e-5)
        checked.append(bool(piece.any()))
        return logits

    monkeypatch.setattr(team, "look_up", asked)
    monkeypatch.setattr(team.net, "forward", both)
    play(team, 3)
    assert any(checked)


@pytest.mark.slow
def test_radt_starts_from_its_retriever_which_stays_as_it_was(retriever):
    before = load_module(retriever / "retriever.ckpt", MADTModule).net.state_dict()
    after = load_module(retriever / "decision.ckpt", RADTModule).net
    for name, value in after.retriever.state_dict().items():
        assert torch.equal(value, before[name])
    moved = [(v - before[n]).abs().max() for n, v in after.decision.state_dict().items()]
    assert 0 < max(moved) < 0.1
