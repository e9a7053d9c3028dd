"""Each rival: what makes it itself, and that it learns."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from maicc.baselines import METHODS as ALL
from maicc.baselines.base import BaselineModule
from maicc.baselines.dpt import DPTransformer, SetData
from maicc.baselines.hissd import HiSSDData
from maicc.baselines.options import DPTConfig, SamplingAdapt
from maicc.config import CollectConfig
from maicc.data.collect import collect
from maicc.data.dataset import EpisodeFile
from maicc.envs import register
from maicc.experiments.fits import fit_model
from maicc.experiments.units import with_overrides
from maicc.experiments.validate import check
from maicc.files import ModelFiles
from maicc.models.record import StepTokens, packed, transitions
from maicc.training.chain_data import ChainData
from maicc.training.episode_data import EpisodeData
from maicc.training.fit import seeded
from maicc.training.memories import Memories
from maicc.types import ObsLayout, UserError
from tests.conftest import tiny_config
from tests.rivals import FAMILY, METHODS, SMALL, chains, make, make_for, play, spied


@pytest.mark.parametrize("method", METHODS)
def test_who_remembers(method, dataset):
    module = make(method, dataset)
    lived, fresh = play(module.team([0, 1], 9), 3), module.team([0, 1], 9)
    observations = np.random.default_rng(0).random((2, 3, 8)).astype(np.float32)
    legal = np.ones((2, 3, 6), bool)
    for team in (spied(lived), spied(fresh)):
        team.act(observations, legal)
    forgets = np.allclose(lived.seen[0], fresh.seen[0], atol=1e-6)
    assert forgets == (method in ("madt", "hissd"))


def test_dpt_does_not_know_the_order_of_its_context(dataset):
    with seeded(0):
        net = DPTransformer(EpisodeFile(dataset).spec, DPTConfig(**SMALL)).eval()
    batch = chains(dataset)
    context = transitions(batch.chain.take(np.s_[:, :-1]))
    order = torch.randperm(context.mask.shape[1], generator=torch.Generator().manual_seed(0))
    query = batch.chain.observations[:, -1, :4]
    step = torch.arange(4).expand(5, 4)

    def decide(sets, rows=slice(None)):
        return net.decide(query[rows], step[rows], sets.read(net.transformer))

    with torch.no_grad():
        tokens = net.tokens(context)
        one = decide(tokens)
        other = decide(StepTokens(*(part[:, order] for part in tokens)))
        none = decide(tokens._replace(mask=torch.zeros_like(tokens.mask)))
        some = tokens._replace(mask=tokens.mask & (order % 3 == 0))
        short = packed(StepTokens(*(part[[4, 1]] for part in some)))
        full, few = decide(some)[[4, 1]], decide(short, [4, 1])
    assert torch.allclose(one, other, atol=1e-5)
    assert short.mask.shape[1] < context.mask.shape[1] / 2
    assert torch.allclose(full, few, atol=1e-5)
    assert not torch.allclose(one, none, atol=1e-3)


@pytest.mark.parametrize(
    ("method", "sizes"), [("dpt", {}), ("at", {"supervise": "last"}), ("ad", {"context_steps": 60})]
)
def test_rivals_that_remember_can_be_asked_for_the_hidden_part(method, sizes, dataset):
    plain = make(method, dataset, **sizes)
    asked = make(method, dataset, hidden_weight=0.5, **sizes)
    batch = chains(dataset, episodes=asked.drawn(asked.config, asked.spec), batch_size=6)
    for module in (plain, asked):
        module.step_seed = lambda: 0
    assert set(plain.losses(batch)) == {"loss", "accuracy"}
    losses = asked.losses(batch)
    assert torch.isclose(losses["loss"], losses["actions"] + 0.5 * losses["hidden"])
    assert torch.isclose(losses["actions"], plain.losses(batch)["loss"])
    for parameter in asked.net.infer.parameters():  # the answer is 0 at every step that is learned
        parameter.data.zero_()
    if method == "dpt":
        learned = (batch.chain.step_mask[:, -1] & (batch.expert[:, -1] >= 0)).sum(1)
    else:
        learned = asked.prepare(batch)[1].sum((1, 2))
    wrong = (batch.hidden.square().mean(1) * learned).sum() / learned.sum()
    assert torch.isclose(asked.losses(batch)["hidden"], wrong, atol=1e-6)


def test_sets_of_what_a_team_could_have_lived_through(tmp_path):
    """Of the half-random expert only successes, and half of the sets are failures alone."""
    path = tmp_path / "episodes.h5"
    collect(FAMILY, path, CollectConfig(episodes=6, levels=[0.0, 0.5], workers=1), seed=0)
    sets, chosen = {}, {}
    for lived in (False, True):
        data = SetData(family="lbf_7x7", path=str(path), episodes=5, lived=lived)
        data.setup("fit")
        missed, behaviour = Memories(data, data.stored).missed, data.stored.behaviour
        rng = np.random.default_rng(0)
        drawn = [data.draw(agents[0], rng) for agents in data.groups for _ in range(40)]
        assert all(chain[-1] not in chain[:-1] for chain in drawn)
        sets[lived] = np.array(drawn)[:, :-1]
        shown = sets[lived].ravel()
        chosen[lived] = {*zip(behaviour[shown], missed[shown], strict=True)}
    assert chosen == {
        False: {(0, True), (1, True), (1, False)},
        True: {(0, True), (1, False)},
    }
    assert missed[sets[True]].all(1).mean() > 0.5


def test_a_query_is_in_no_set_of_its_own_where_episodes_are_few(dataset):
    data = SetData(family="lbf_7x7", path=str(dataset), episodes=9)
    data.setup("fit")
    items, rng = data.groups[0][0], np.random.default_rng(0)
    assert len(items) < 9
    rows = [data.draw(items, rng) for _ in range(100)]
    assert all(row[-1] not in row[:-1] and len(row) == 9 for row in rows)
    assert {item for row in rows for item in row} == set(items)


def test_a_set_of_an_agent_who_lived_through_nothing_is_blank(dataset):
    options = {"family": "lbf_7x7", "path": str(dataset), "episodes": 9, "batch_size": 3}
    data = SetData(lived=True, **options)
    data.setup("fit")
    data.memories.left_out[:] = True
    batch = next(data.batches(0))
    assert not batch.chain.step_mask[:, :-1].any()
    assert batch.chain.step_mask[:, -1].any(1).all()
    module = make("dpt", dataset, hidden_weight=1.0)
    module.step_seed = lambda: 0
    assert torch.isfinite(module.losses(batch)["loss"])


def test_dpt_says_how_its_sets_are_drawn(dataset):
    config = with_overrides(tiny_config(), {"method": "dpt"})
    files = ModelFiles(dataset, {})
    for lived in (False, True):
        config.decision.lived = lived
        assert ALL["dpt"].load_module_type().data(config, files).lived == lived


def test_a_chain_comes_with_the_hidden_part_of_its_task(dataset):
    """On the scale of mean 0 and spread 1: the row and the column of the food."""
    data = ChainData("lbf_7x7", str(dataset), episodes=9, batch_size=20)
    data.setup("fit")
    foods = np.array([task.parameters["food"] for task in EpisodeFile(dataset).tasks])
    scaled = (foods - foods.mean(0)) / foods.std(0)
    drawn, draw = [], data.draw
    data.draw = lambda *of: drawn.append(draw(*of)) or drawn[-1]
    batch = next(data.batches(0))
    for items, hidden in zip(drawn, batch.hidden.numpy(), strict=True):
        assert np.allclose(hidden, scaled[data.stored.task[items]], atol=1e-5)


def test_dpt_needs_an_expert(dataset):
    data = SetData(family="lbf_7x7", path=str(dataset), episodes=9)
    data.setup("fit")
    module = make("dpt", dataset)
    module.trainer = SimpleNamespace(datamodule=data)
    module.setup("fit")
    data.stored.expert[:] = -1
    with pytest.raises(UserError, match="this dataset has none"):
        module.setup("fit")
    nobody = dataclasses.replace(FAMILY, expert=None)
    with pytest.raises(UserError, match="give the family an expert or policies"):
        check(tiny_config(method="dpt"), nobody)
    check(tiny_config(method="dpt"), FAMILY)


def test_the_set_of_dpt_grows_with_the_episodes_up_to_what_was_trained(dataset):
    module = make("dpt", dataset, set_episodes=3)
    team = play(module.team([0, 1], 20), 1)
    observations = np.zeros((2, 3, 8), np.float32)
    for e in range(5):
        team.act(observations, np.ones((2, 3, 6), bool))
        played = team.online.trajectories.step_mask[:, max(e - 2, 0) : e + 1].sum((1, 2))
        assert team._past.visible.sum(1).tolist() == played.tolist()
        assert team._past.visible.shape[1] == played.max()  # no place is empty in all of them
        team.observe(np.zeros((2, 3), int), np.zeros(2), np.ones(2, bool))


def test_methods_that_explore_are_greedy_at_the_end(dataset):
    sampled = {}
    for method in METHODS:
        team = make(method, dataset).team([0, 1], 20)
        shares = []
        for e in range(20):
            team.online.history = np.zeros((6, e), np.float32)
            shares.append(team.sampling())
        sampled[method] = shares
    explores = [1.0] * 10 + [0.0] * 10
    assert sampled["madt"] == sampled["hissd"] == [0.0] * 20
    assert all(sampled[method] == explores for method in ("at", "ad", "radt", "dpt"))
    assert make("at", dataset).team([0], 20, explore="greedy").sampling() == 0.0
    assert make("dpt", dataset).team([0], 3).sampling() == 1.0


def test_rivals_may_sample_until_the_task_is_solved(dataset):
    team = make("dpt", dataset).team([0, 1], 20, explore="until_solved")
    for returns, sampled in (
        ([[], []], [1.0, 1.0]),
        ([[0.2, 0.4], [0.2, 1.0]], [1.0, 0.0]),
        ([[0.4] * 6, [1.0] + [0.4] * 5], [1.0, 1.0]),  # of the latest five none
    ):
        team.online.history = np.repeat(np.array(returns, np.float32), 3, axis=0)
        assert team.sampling().tolist() == np.repeat(sampled, 3).tolist()
    free = make("dpt", dataset).team([0], 20, explore="until_solved", replay=True,
                                     states_bounds=False)  # fmt: skip
    for returns, sampled in (([0.4] * 6, 0.0), ([0.4] * 5, 1.0), ([0.0] * 9, 1.0)):
        free.online.history = np.repeat(np.array([returns], np.float32), 3, axis=0)
        assert free.sampling().tolist() == [sampled] * 3  # no better in five episodes, or not yet
    assert make("madt", dataset).team([0], 3, explore="until_solved").sampling() == 0.0
    assert team.replayable().shape == (6, 0)
    assert make("dpt", dataset).team([0, 1], 20, replay=True).replayable().shape == (6, 32)


def test_a_model_refuses_batches_of_another_kind(dataset):
    for method, data, message in (
        ("madt", ChainData("lbf_7x7", str(dataset), 4), "set data.init_args.episodes=1"),
        ("at", EpisodeData("lbf_7x7", str(dataset)), "ATModule is trained on ChainData"),
        ("radt", ChainData("lbf_7x7", str(dataset), 4), "RADTModule is trained on RADTData"),
    ):
        module = make(method, dataset)
        module.trainer = SimpleNamespace(datamodule=data)
        with pytest.raises(UserError, match=message):
            module.setup("fit")


def test_skills_of_hissd_agree_in_a_task_and_differ_between_tasks(dataset):
    module = make("hissd", dataset)
    data = HiSSDData("lbf_7x7", str(dataset), 24)
    data.setup("fit")
    batch = next(data.batches(0))
    adam = torch.optim.Adam(module.parameters(), 1e-3)
    module.log_dict = lambda *a, **k: None
    module._trainer = SimpleNamespace(global_step=0, global_rank=0)
    team = batch.team

    def contrast():
        T = team.actions.shape[1]
        seen = team.observations[:, :T]
        skills = module.net.of_task(seen.flatten(0, 2)).unflatten(0, seen.shape[:3])
        return module._contrast(skills, team, batch.task)

    before = float(contrast().detach())
    for _ in range(150):
        adam.zero_grad()
        loss = contrast()
        loss.backward()
        adam.step()
    assert float(loss.detach()) < 0.85 * before


@pytest.mark.parametrize("encoder", ["flat", "entities"])
@pytest.mark.parametrize("method", METHODS)
def test_the_team_acts_as_separate_agents_that_share_nothing(method, encoder):
    """In lock step with another run and a smaller team, and one agent of one run on its own."""
    layout = ObsLayout(own=(2, 2), allies=(4, 2, 2), enemies=(0, 1, 2), attack=5)
    spec = dataclasses.replace(FAMILY.spec, layout=layout if encoder == "entities" else None)
    window = {"window": 3} if method == "radt" else {}
    module = make_for(method, spec, encoder=encoder, **window)
    rng = np.random.default_rng(0)
    there = np.array([[True, True, True], [True, True, False]])
    together = spied(module.team([5, 6], 10, there))
    rows = np.argwhere(there).tolist()
    alone = [spied(module.team([5 + r], 10, agents=[i])) for r, i in rows]
    legal, last = np.ones((2, 3, 6), bool), (2, 4)  # the runs' last steps
    for _ in range(3):
        for t in range(5):
            seen = rng.random((2, 3, 8)).astype(np.float32)
            actions = together.act(seen, legal)
            reward, done = rng.random(2).astype(np.float32) / 4, np.array([t >= s for s in last])
            together.observe(actions, reward, done)
            playing = [
                (row, agent) for row, agent in zip(rows, alone, strict=True) if t <= last[row[0]]
            ]
            for q, ((r, i), agent) in enumerate(playing):
                one = agent.act(seen[r, i : i + 1], legal[r, i : i + 1])
                assert np.allclose(agent.seen[-1][0], together.seen[-1][q], atol=1e-5)
                assert one[0] == actions[r, i]
                agent.observe(one, reward[r], bool(done[r]))
    assert together.episode == 3


@pytest.mark.slow
def test_agents_of_a_rival_share_their_draws_if_they_are_to(dataset, tmp_path):
    config = tiny_config(method="dpt")
    config.decision.steps = 1
    files = ModelFiles(dataset, {"decision": tmp_path / "decision.ckpt"})
    fit_model("decision", config, files)
    trained = ALL["dpt"].load(config, files, FAMILY.spec, "cpu")
    for draws, redraw in (("own", "step"), ("shared", "episode")):
        team = play(trained.team([0, 1], SamplingAdapt(draws=draws, redraw=redraw)), 1)
        drawn = team._draws.action.reshape(2, 3, -1)
        assert (drawn == drawn[:, :1]).all() == (draws == "shared")
        assert (np.ptp(drawn, axis=-1) == 0).all() == (redraw == "episode")


@pytest.fixture(scope="module")
def two_tasks(tmp_path_factory):
    """A family of two tasks, and the expert's episodes in them."""
    first = dict(list(FAMILY.training.items())[::8])
    family = register(dataclasses.replace(FAMILY, name="two", training=first))
    path = tmp_path_factory.mktemp("two") / "episodes.h5"
    collect(family, path, CollectConfig(episodes=4, levels=[1.0], workers=1), 0)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_each_method_overfits_two_tasks(method, two_tasks, tmp_path, monkeypatch):
    config = tiny_config(method=method, family="two")
    config.decision.model.width, config.decision.model.label_smoothing = 32, 0.0
    config.decision.batch_size, config.decision.steps = 12, 150
    config.decision.optimiser.learning_rate = 3e-3
    accuracy, imitation = [], BaselineModule.imitation

    def record(module, logits, actions, *errors):
        accuracy.append(float((logits.argmax(-1) == actions).float().mean()))
        return imitation(module, logits, actions, *errors)

    monkeypatch.setattr(BaselineModule, "imitation", record)
    fits = ALL[method].fits
    files = ModelFiles(two_tasks, {fit: tmp_path / f"{fit}.ckpt" for fit in fits})
    if method == "ad":
        config.decision.model.context_steps = 60
    if "retriever" in fits:
        config.retriever.steps = 3
    for name in fits:
        fit_model(name, config, files)
    # the first steps look alike in both tasks: not all can be told from the running episode
    assert np.mean(accuracy[:3]) < 0.6 < 0.75 < np.mean(accuracy[-20:])


@pytest.mark.parametrize("method", METHODS)
def test_no_rival_takes_over_smoothed_labels(method):
    config = tiny_config()
    config.decision.model.label_smoothing = 0.1
    assert with_overrides(config, {"method": method}).decision.model.label_smoothing == 0.0
