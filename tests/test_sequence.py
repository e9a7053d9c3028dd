"""MADT, AT and AD: rows of episodes, their order and their labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maicc.baselines.at import relabelled
from maicc.data.dataset import EpisodeFile
from maicc.training.chain_data import ChainData, reordered
from maicc.types import Trajectories
from tests.rivals import chains, make, play


def test_a_chain_is_of_one_agent_in_one_task(dataset):
    data = ChainData("lbf_7x7", str(dataset), 4, batch_size=50)
    data.setup("fit")
    stored = EpisodeFile(dataset).read()
    starts = stored.observations[:, 0]  # an agent's first observation tells who it is
    for group in data.groups:
        for mine in group:
            first = data.slices.observations[mine, 0].numpy()
            assert (first == first[0]).all()
    assert sum(len(mine) for group in data.groups for mine in group) == starts.shape[0] * 3
    batch = next(data.batches(0))
    assert batch.chain.actions.shape[:2] == (50, 4)
    assert (batch.chain.observations[:, 0, 0] == batch.chain.observations[:, 3, 0]).all()


def test_a_row_of_episodes_is_decided_step_by_step_as_at_once(dataset):
    net = make("at", dataset).net
    chain = chains(dataset).chain
    lengths = chain.step_mask.sum(-1)
    with torch.no_grad():
        whole = net(chain)
        past = net.encode(Trajectories(*(part[:, :3] for part in chain)))
        seen = past
        for t in range(int(lengths[:, 3].min())):
            current = Trajectories(*(part[:, 3, : t + 1] for part in chain))
            assert torch.allclose(net.decide(current, past, 3)[0], whole[:, 3, t], atol=1e-5)
            logits, seen = net.decide(current, seen, 3, t)
            assert torch.allclose(logits, whole[:, 3, t], atol=1e-5)
        first = Trajectories(*(part[:, 0, :1] for part in chain))
        assert torch.allclose(net.decide(first, None, 0)[0], whole[:, 0, 0], atol=1e-5)


@pytest.mark.parametrize("method", ["madt", "at", "ad"])
def test_what_was_seen_is_kept_whoever_is_asked(dataset, method):
    """Some agents have no choice for a while, or die: the others', and later their own, logits are
    those of the whole trajectory."""
    module = make(method, dataset)
    team, rng = module.team(range(4), 10), np.random.default_rng(0)
    kept, asked = team.logits, []

    def both(active):
        before = team._before
        before = None if before is None else before.take(torch.from_numpy(active))
        whole, _ = team.net.decide(team._current(active), before, team._place)
        found = kept(active)
        assert np.allclose(found, whole.numpy(), atol=1e-4)
        asked.append(len(active))
        return found

    team.logits = both
    for _ in range(3):
        for t in range(8):
            legal = np.ones((4, 3, 6), bool)
            legal[rng.random((4, 3)) < 0.1 * t, 1:] = False
            actions = team.act(rng.random((4, 3, 8)).astype(np.float32), legal)
            team.observe(actions, rng.random(4), np.arange(4) + 4 <= t)
    assert set(asked) >= {12, 1}


@pytest.mark.parametrize("method", ["madt", "at", "ad"])
def test_the_future_changes_nothing_before_it(dataset, method):
    module = make(method, dataset)
    batch = chains(dataset, episodes=module.drawn(module.config))
    chain, _ = module.prepare(batch)
    E = chain.actions.shape[1]
    changed = chain._replace(actions=chain.actions.clone(), rewards=chain.rewards + 1.0)
    changed.actions[:, -1] = 5 - changed.actions[:, -1]
    same = Trajectories(
        *(torch.cat([a[:, :-1], b[:, -1:]], 1) for a, b in zip(chain, changed, strict=True))
    )
    with torch.no_grad():
        before, after = module.net(chain), module.net(same)
    assert torch.allclose(before[:, : E - 1], after[:, : E - 1], atol=1e-6)
    assert torch.allclose(before[:, -1, 0], after[:, -1, 0], atol=1e-6)
    assert not torch.allclose(before[:, -1, 1:], after[:, -1, 1:], atol=1e-3)


def test_at_sorts_ascending_and_relabels(dataset):
    chain = chains(dataset).chain
    ordered = reordered(chain, chain.rewards.sum(-1))
    returns = ordered.rewards.sum(-1)
    assert (returns[:, 1:] >= returns[:, :-1]).all()
    assert torch.equal(returns.sort(1).values, chain.rewards.sum(-1).sort(1).values)
    spec = EpisodeFile(dataset).spec
    chain = Trajectories(
        observations=torch.zeros(1, 2, 3, 8),
        actions=torch.zeros(1, 2, 3, dtype=torch.long),
        rewards=torch.tensor([[[0.5, 0.0, 0.0], [0.0, 0.5, 1.5]]]),
        done=torch.tensor([[[0.0, 0, 1], [0, 0, 1]]]),
        completed=torch.ones(1, 2, 3),
        return_to_go=torch.zeros(1, 2, 3),
        step_mask=torch.ones(1, 2, 3, dtype=torch.bool),
    )
    labelled = relabelled(chain, torch.tensor([2.0]), spec)
    assert labelled.return_to_go.tolist() == [[[2.0, 1.5, 1.5], [2.0, 2.0, 1.5]]]
    assert labelled.completed.tolist() == [[[0.0, 0, 0], [0, 0, 1]]]


def test_at_learns_from_the_last_episode_only_where_asked(dataset):
    module = make("at", dataset, supervise="last")
    chain, learned = module.prepare(chains(dataset))
    assert not learned[:, :-1].any()
    assert torch.equal(learned[:, -1], chain.step_mask[:, -1])


def test_ad_shows_a_row_from_anywhere_in_the_order_of_levels(dataset):
    module = make("ad", dataset)
    batch = chains(dataset, batch_size=40, episodes=module.drawn(module.config))
    chain, _ = module.prepare(batch)
    starts = set()
    for i in range(40):
        order = batch.level[i].argsort(stable=True)
        row = [batch.chain.actions[i, j].tolist() for j in order]
        shown = chain.actions[i].tolist()
        found = [s for s in range(len(row) - 3) if row[s : s + 4] == shown]
        assert found
        starts.add(found[0])
    assert len(starts) > 4


def test_ad_rolls_on_and_never_starts_afresh(dataset):
    module = make("ad", dataset, episodes=3)
    team = play(module.team([0, 1], 9), 4)
    shown, lived = module.contexts(team.online), team.online.trajectories
    assert shown.actions.shape[1] == 2
    assert np.array_equal(shown.observations, lived.observations[:, 2:4])
    assert np.array_equal(shown.actions, lived.actions[:, 2:4])


def test_at_sees_its_latest_episodes_ascending(dataset):
    module = make("at", dataset)
    team = play(module.team([0, 1], 9), 5)
    team.online.trajectories.rewards[:, 2:5, 0] = [1.0, 0.5, 0.0]
    shown = module.contexts(team.online)
    returns = shown.rewards.sum(-1)
    assert returns.shape == (6, 3)
    assert (returns[:, 1:] >= returns[:, :-1]).all()
    assert (shown.return_to_go[:, :, 0] == 2.0).all()
