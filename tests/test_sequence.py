"""MADT, AT and AD: rows of episodes, their order and their labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maicc.baselines.ad import ADModule, HistoryData, worst_to_best
from maicc.baselines.at import relabelled
from maicc.baselines.sequence import of_the_step_before
from maicc.data.dataset import EpisodeFile
from maicc.training.chain_data import ChainData, reordered
from maicc.training.checkpoints import load_module
from maicc.types import Behaviour, Trajectories, UserError
from tests.rivals import FAMILY, chains, make, play

FOUR = {"context_steps": 60}  # steps of four episodes


def test_a_chain_is_of_one_agent_in_one_task(dataset):
    data = ChainData("lbf_7x7", str(dataset), 4, batch_size=50)
    data.setup("fit")
    stored = EpisodeFile(dataset).read()
    starts = stored.observations[:, 0]  # an agent's first observation tells who it is
    for group in data.groups:
        for mine in group:
            first = data.stored.trajectories.observations[mine][:, 0]
            assert (first == first[0]).all()
    assert sum(len(mine) for group in data.groups for mine in group) == starts.shape[0] * 3
    batch = next(data.batches(0))
    assert batch.chain.actions.shape[:2] == (50, 4)
    assert (batch.chain.observations[:, 0, 0] == batch.chain.observations[:, 3, 0]).all()


@pytest.mark.parametrize(("method", "options"), [("at", {}), ("ad", FOUR)])
def test_a_row_of_episodes_is_decided_step_by_step_as_at_once(dataset, method, options):
    net = make(method, dataset, **options).net
    chain = chains(dataset).chain
    lengths = chain.step_mask.sum(-1)
    with torch.no_grad():
        whole = net(chain)
        past = net.encode(chain.take(np.s_[:, :3]))
        seen = past
        for t in range(int(lengths[:, 3].min())):
            current = chain.take(np.s_[:, 3, : t + 1])
            assert torch.allclose(net.decide(current, past, 3)[0], whole[:, 3, t], atol=1e-5)
            logits, seen = net.decide(current, seen, 3, t)
            assert torch.allclose(logits, whole[:, 3, t], atol=1e-5)
        first = chain.take(np.s_[:, 0, :1])
        assert torch.allclose(net.decide(first, None, 0)[0], whole[:, 0, 0], atol=1e-5)


@pytest.mark.parametrize("method", ["madt", "at", "ad"])
def test_what_was_seen_is_kept_whoever_is_asked(dataset, method):
    """Some agents have no choice for a while, or die: the others', and later their own, logits are
    those of the whole trajectory."""
    module = make(method, dataset)
    team, rng = module.team(range(4), 10), np.random.default_rng(0)
    kept, asked = team.logits, []

    def both(active):
        contexts = team._contexts
        contexts = contexts and contexts.take(torch.from_numpy(active))
        whole, _ = team.net.decide(module.running(team._current(active)), contexts, team._place)
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
    module = make(method, dataset, **(FOUR if method == "ad" else {}))
    batch = chains(dataset, episodes=module.drawn(module.config, module.spec))
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


def test_a_fused_token_holds_the_step_before_across_episodes(dataset):
    x = torch.arange(1.0, 7.0).reshape(1, 6, 1)
    played = torch.tensor([[True, True, False, True, False, False]])
    assert of_the_step_before(x, played, None).flatten().tolist() == [0, 1, 2, 2, 4, 4, 4]
    first = torch.tensor([[9.0]])
    assert of_the_step_before(x, played, first).flatten().tolist() == [9, 1, 2, 2, 4, 4, 4]

    net, chain = make("ad", dataset, **FOUR).net, chains(dataset).chain
    short = int(chain.step_mask[0, 1].sum())  # steps of an episode
    for step, following in ((0, (1, 1)), (short - 1, (2, 0))):
        actions = chain.actions.clone()
        actions[0, 1, step] = 5 - actions[0, 1, step]
        with torch.no_grad():
            one, _, _ = net.tokens(chain)
            other, _, _ = net.tokens(chain._replace(actions=actions))
        differ = (one != other).any(-1).squeeze(-1) & chain.step_mask
        assert differ.nonzero().tolist() == [[0, *following]]


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
    running = make("at", dataset).running(chain)  # read as in training
    assert running.completed.tolist() == [[[0.0, 0, 1], [0, 0, 1]]]


def test_at_learns_from_the_last_episode_only_where_asked(dataset):
    module = make("at", dataset, supervise="last")
    chain, learned = module.prepare(chains(dataset))
    last, returns = chain.step_mask.any(2).sum(1) - 1, chain.rewards.sum(-1)
    assert len(set(last.tolist())) > 2, "a team acts at every place"
    for row, place in enumerate(last):
        assert learned[row].any(1).nonzero().tolist() == [[place]]
        assert torch.equal(learned[row, place], chain.step_mask[row, place])
        assert (returns[row, : place + 1].diff() >= 0).all()
        assert chain.return_to_go[row, place, 0] == returns[row, place]


def test_a_row_of_ad_has_the_fewest_episodes_that_hold_its_context():
    spec = FAMILY.spec  # of 15 steps
    for context, episodes in ((1000, 16), (240, 16), (60, 4), (61, 5), (1, 2)):
        assert ADModule.drawn(ADModule.config_type(context_steps=context), spec) == episodes
    assert ADModule.drawn(ADModule.config_type(context_episodes=80), spec) == 67


def test_annealed_levels_are_ordered_by_their_noise():
    def behaviour(name, rate, reached):
        return Behaviour(name, rate, reached, reached)

    behaviours = [
        behaviour("policy0", 0.0, 0.3),
        behaviour("annealed", 1.0, 0.1),
        behaviour("annealed", 0.5, 0.5),  # a little lucky
        behaviour("annealed", 0.25, 0.4),
        behaviour("annealed", 0.0, 0.5),  # as good as the last but one
        behaviour("expert", 0.4, 0.45),
    ]
    assert worst_to_best(behaviours).tolist() == [1, 0, 2, 4, 5, 3]


def history(dataset, episodes: int) -> HistoryData:
    data = HistoryData("lbf_7x7", str(dataset), episodes, batch_size=40)
    data.setup("fit")
    return data


def test_ad_shows_a_history_from_worst_to_best(dataset):
    data, rng = history(dataset, 4), np.random.default_rng(0)
    items = data.groups[0][0]
    assert len(items) == 6  # three episodes of either level
    rows = [data.draw(items, rng) for _ in range(200)]
    levels = [tuple(data.stored.behaviour[row]) for row in rows]
    assert set(levels) == {(0, 0, 0, 1), (0, 0, 1, 1), (0, 1, 1, 1)}
    assert all(len(set(row)) == 4 for row in rows)
    assert {item for row in rows for item in row} == set(items)


def test_a_history_of_ad_is_of_the_learner_alone(dataset, monkeypatch):
    guess, learner = Behaviour("policy0", 0.0, 0.3, 0.3), Behaviour("annealed", 0.5, 0.5, 0.5)
    monkeypatch.setattr(EpisodeFile, "behaviours", [guess, learner])
    data = HistoryData("lbf_7x7", str(dataset), 4, batch_size=40, held_back=0.2)
    data.setup("fit")
    for groups in (data.groups, data.held_groups):
        items = np.concatenate([items for agents in groups for items in agents])
        assert (data.stored.behaviour[items] == 1).all()
    assert len(next(data.batches(0)).chain.actions) == 40
    assert data.held_back_batches()

    def guesses_alone(self, episodes):
        self.holds_back = True
        return episodes.behaviour == 0

    monkeypatch.setattr(HistoryData, "hold_back", guesses_alone)
    data = HistoryData("lbf_7x7", str(dataset), 4, batch_size=40, held_back=0.2)
    data.setup("fit")
    assert data.held_back_batches() == []


def test_a_short_history_of_ad_stands_anywhere_in_a_row_and_repeats_nothing(dataset):
    data, rng = history(dataset, 8), np.random.default_rng(0)
    items = data.groups[0][0]
    rows = [data.draw(items, rng) for _ in range(100)]
    assert {tuple(np.flatnonzero(row >= 0)) for row in rows} == {
        (0, 1, 2, 3, 4, 5),
        (1, 2, 3, 4, 5, 6),
        (2, 3, 4, 5, 6, 7),
    }
    assert all(sorted(row[row >= 0]) == sorted(items) for row in rows)
    chain = next(data.batches(0)).chain
    assert chain.actions.shape[:2] == (40, 8)
    assert (chain.step_mask.any(2).sum(1) == 6).all()  # nothing is learned from blank ones


def test_ad_rolls_on_and_never_starts_afresh(dataset):
    module = make("ad", dataset, context_steps=45)
    team = play(module.team([0, 1], 9), 4)
    shown, lived = module.contexts(team.online), team.online.trajectories
    assert shown.actions.shape[1] == 2
    assert np.array_equal(shown.observations, lived.observations[:, 2:4])
    assert np.array_equal(shown.actions, lived.actions[:, 2:4])


@pytest.mark.parametrize("older", ["0.1", "unfused"])
def test_models_of_ad_that_read_other_tokens_are_refused(dataset, tmp_path, older):
    module, checkpoint = make("ad", dataset, **FOUR), {}
    module.on_save_checkpoint(checkpoint)
    network = checkpoint["maicc"]["network"]
    del network["context_steps"], network["context_episodes"]
    if older == "0.1":
        checkpoint["maicc"]["baseline"] = {"episodes": 4}
    else:
        network["episodes"] = 4
    checkpoint["state_dict"] = module.state_dict()
    torch.save(checkpoint, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="made by another version of maicc; train it again"):
        load_module(tmp_path / "x.ckpt", ADModule)


def test_at_sees_its_latest_episodes_ascending(dataset):
    module = make("at", dataset)
    team = play(module.team([0, 1], 9), 5)
    team.online.trajectories.rewards[:, 2:5, 0] = [1.0, 0.5, 0.0]
    shown = module.contexts(team.online)
    returns = shown.rewards.sum(-1)
    assert returns.shape == (6, 3)
    assert (returns[:, 1:] >= returns[:, :-1]).all()
    assert (shown.return_to_go[:, :, 0] == 2.0).all()
