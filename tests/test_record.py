"""The record: an agent's own past steps as a set, in the model, in training and in a team."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from maicc.baselines.trained import TrainedMAICC
from maicc.config import DecisionConfig, MaiccAdapt, MemoryConfig, RetrievalConfig
from maicc.data.behaviour import play
from maicc.data.dataset import EpisodeFile
from maicc.data.returns import solved
from maicc.data.team_batch import team_batch
from maicc.evaluation import adapt as adaptation
from maicc.evaluation.adapt import adapt, play_episode
from maicc.experiments.run import run
from maicc.experiments.validate import check
from maicc.files import ModelFiles
from maicc.memory import BlendedMemory, OfflineMemory, OnlineMemory, schedule
from maicc.models.decision import DecisionTransformer, Past
from maicc.models.record import Transitions, packed, transitions
from maicc.training import RecordData
from maicc.types import Spec, Trajectories, UserError
from tests.conftest import tiny_config
from tests.teams import FAMILY, SEEDS, check_lock_step, make_env


def make(spec: Spec, **changes) -> DecisionTransformer:
    """An untrained model in which what is looked at matters."""
    torch.manual_seed(0)
    paper = {"record": 0, "labels": "behaviour"}
    small = DecisionConfig(width=16, layers=2, heads=2, **{**paper, **changes})
    model = DecisionTransformer(spec, small).eval().requires_grad_(False)
    for block in model.transformer.blocks:
        torch.nn.init.normal_(block.attention.qkv.weight, std=0.3)
        torch.nn.init.normal_(block.attention.project.weight, std=0.3)
    return model


@pytest.fixture(scope="module")
def slices() -> Trajectories:
    episodes = play(FAMILY, FAMILY.training_tasks[4], 0.3, [(1, e) for e in range(6)])
    return team_batch(episodes, (0.0, 2.0)).slices()


def record_of(slices: Trajectories, index) -> Transitions:
    return packed(transitions(slices.take(torch.as_tensor(index))))


def test_steps_of_a_record_by_hand(slices):
    index = torch.tensor([[3, 4]])
    steps, lengths = transitions(slices.take(index)), slices.step_mask[[3, 4]].sum(1).tolist()
    assert steps.mask.sum() == sum(lengths)
    T = slices.actions.shape[1]
    assert torch.equal(steps.following[0, 0], slices.observations[3, 1])
    assert torch.equal(steps.observations[0, T + 2], slices.observations[4, 2])
    assert (steps.following[0, lengths[0] - 1] == 0).all()  # nothing follows the last step
    assert steps.step[0, T : T + 3].tolist() == [0, 1, 2]
    assert packed(steps).mask.all()


def test_a_record_of_long_episodes_is_thinned_out(slices):
    index = [[3, 4], [5, 5]]
    steps = transitions(slices.take(torch.tensor(index)))
    short = steps.mask.clone()
    short[1, 4:] = False
    steps = steps._replace(mask=short)
    whole, few = packed(steps), packed(steps, 6)
    size = int(whole.mask[0].sum())
    assert few.mask.sum(1).tolist() == [6, 4]
    assert torch.equal(few.step[0], whole.step[0, [i * size // 6 for i in range(6)]])
    assert torch.equal(few.observations[1, :4], steps.observations[1, :4])
    assert torch.equal(packed(steps, 10**6).mask, whole.mask)
    bounded = make(FAMILY.spec, record=2, k=0, record_steps=6)
    visible = bounded.encode_record(steps).visible
    assert visible.shape[1] == 6
    assert torch.equal(visible, few.mask)


@pytest.mark.parametrize(
    "changes",
    [{"record": 2, "k": 3}, {"record": 2, "k": 0}, {"k": 0}, {"k": 3, "tokens": "four"},
     {"k": 2, "record": 2, "tokens": "four"}],
)  # fmt: skip
def test_steps_read_one_by_one_decide_as_the_whole_trajectory_does(slices, changes):
    model, k = make(FAMILY.spec, **changes), changes["k"]
    current = slices.take(slice(0, 2))
    contexts = slices.take(torch.tensor([[7, 8, 9][:k], [6, 8, 5][:k]]).long())
    record = record_of(slices, [[10, 11], [12, 13]]) if model.config.record else None
    whole = model(current, contexts, record=record)
    seen = model.encode_record(record) if record is not None else None
    past = None
    if k:
        flat = Trajectories(*(part.flatten(0, 1) for part in contexts))
        kv = model.encode_contexts(flat)
        kv = [tuple(model._side_by_side(part, k) for part in layer) for layer in kv]
        past = Past(kv, model.visible(contexts.step_mask))
    for t in range(current.actions.shape[1]):
        two = Trajectories(*(part[:, max(t - 1, 0) : t + 1] for part in current))
        encoded = model.encoders.observation(two.observations)
        logits, seen = model.extend(two, encoded, t, seen, past)
        assert torch.allclose(logits, whole[:, t], atol=1e-5)


@pytest.mark.parametrize("k", [0, 3])
def test_the_order_of_a_record_means_nothing_and_its_steps_mean_something(slices, k):
    model = make(FAMILY.spec, record=2, k=k)
    current, contexts = slices.take(slice(0, 1)), slices.take(torch.tensor([[7, 8, 9][:k]]).long())
    one, other = record_of(slices, [[3, 4]]), record_of(slices, [[4, 3]])
    nothing = one._replace(mask=torch.zeros_like(one.mask))
    a, b, c = (model(current, contexts, record=r) for r in (one, other, nothing))
    assert torch.allclose(a, b, atol=1e-5)
    assert not torch.allclose(a, c, atol=1e-3)


def test_queries_share_a_record_as_if_each_had_its_own(slices):
    model = make(FAMILY.spec, record=2, k=3)
    current = slices.take(slice(0, 4))
    contexts = slices.take(torch.tensor([[7, 8, 9], [6, 8, 9], [5, 8, 9], [7, 5, 6]]))
    sets, set_of = record_of(slices, [[10, 11], [12, 13]]), torch.tensor([1, 0, 0, 1])
    shared = model(current, contexts, record=sets, set_of=set_of)
    own = model(
        current, contexts, record=record_of(slices, [[12, 13], [10, 11], [10, 11], [12, 13]])
    )
    assert torch.allclose(shared, own, atol=1e-5)


def test_the_future_changes_nothing_before_it(slices):
    model, t = make(FAMILY.spec, record=2, k=0), 4
    current, record = slices.take(slice(0, 2)), record_of(slices, [[10, 11], [12, 13]])
    later = current._replace(actions=current.actions.clone(), rewards=current.rewards + 1.0)
    later.actions[:, t:] = (later.actions[:, t:] + 1) % 6
    later = later._replace(rewards=torch.cat([current.rewards[:, :t], later.rewards[:, t:]], 1))
    none = slices.take(torch.empty(2, 0, dtype=torch.long))
    a, b = model(current, none, record=record), model(later, none, record=record)
    assert torch.allclose(a[:, : t + 1], b[:, : t + 1], atol=1e-6)
    assert not torch.allclose(a[:, t + 1], b[:, t + 1], atol=1e-4)


def test_a_record_that_is_missing_or_not_read_is_an_error(slices):
    none = slices.take(torch.empty(1, 0, dtype=torch.long))
    with pytest.raises(ValueError, match=r"decision\.model\.record=2"):
        make(FAMILY.spec, record=2, k=0)(slices.take(slice(0, 1)), none)
    with pytest.raises(ValueError, match=r"decision\.model\.record=0"):
        make(FAMILY.spec, k=0)(slices.take(slice(0, 1)), none, record=record_of(slices, [[1, 2]]))
    config = tiny_config()
    config.decision.model.record, config.decision.model.context = 2, "concatenated"
    with pytest.raises(UserError, match="needs decision"):
        check(config, FAMILY)


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


def test_sampling_lasts_until_the_goal_is_reached():
    mixture = schedule.until_solved(np.array([0.0, 0.94, 0.95, 1.0]), 1.0, 0.02, 0.05)
    assert mixture.sample.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert mixture.offline.round(2).tolist() == [1.0, 0.06, 0.05, 0.02]


def test_sampling_lasts_until_a_run_beats_itself_no_more():
    history = np.array(
        [
            [0.2, 0.5, 0.52, 0.5, 0.9, 0.1],  # the fifth is better once more
            [0.2, 0.5, 0.4, 0.5, 0.3, 0.9],  # three were no better: what follows changes nothing
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],  # nothing was reached yet
        ]
    )
    sample = [
        schedule.until_settled(history[:, :n], 3, 0.02, 0.05).sample.tolist() for n in range(7)
    ]
    assert sample[:5] == [[1.0, 1.0, 1.0]] * 5
    assert sample[5:] == [[1.0, 0.0, 1.0]] * 2
    assert schedule.until_settled(history, 3, 0.02, 0.05).offline.tolist() == [1.0, 0.02, 1.0]
    config = tiny_config()
    config.adapt.memory.goal = "own"
    with pytest.raises(UserError, match=r"goal=own needs adapt\.memory\.schedule=until_solved"):
        check(config, FAMILY)


@pytest.fixture
def data(tiny_run) -> RecordData:
    data = RecordData(
        record=3, share=2, family="lbf_7x7", path=str(tiny_run / "episodes.h5"),
        embedding=str(tiny_run / "embedding.ckpt"), k=3, batch_size=12,
    )  # fmt: skip
    data.setup("fit")
    return data


def test_records_are_of_the_querys_agent_in_its_task(data, tiny_run):
    episodes = EpisodeFile(tiny_run / "episodes.h5").read()
    rng, sizes, failures = np.random.default_rng(0), [], 0
    group = {item: (data.task[item], item % 3) for item in range(len(data.task))}
    for _ in range(200):
        queries, shown = data._draw_set(rng)
        assert len({group[i] for i in (*queries, *shown)}) == 1
        assert not set(queries) & set(shown)
        assert len(set(shown)) == len(shown)
        sizes.append(len(shown))
        failures += not solved(data.team_return[shown], (0.0, 2.0)).any()
    assert set(sizes) == {0, 1, 2, 3}
    assert failures > 100
    assert len(episodes) * 3 == len(data.task)
    batch = next(data.batches(0))
    assert batch.record.mask.shape[0] == 6
    assert batch.current.actions.shape[0] == 12


def test_batches_follow_from_the_step(data):
    whole = data.batches(0)
    batches = [next(whole) for _ in range(4)]
    again = next(data.batches(3))
    for a, b in zip(again.record, batches[3].record, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(again.contexts.actions, batches[3].contexts.actions)


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
        queries, remembered = data._draw_set(rng)
        T = data.vectors.shape[1]
        own = OnlineMemory(1, T, data.vectors.shape[2], FAMILY.spec.observation_size)
        for item in remembered:
            one = Trajectories(*(part[[item]].numpy() for part in data.slices))
            returns = data.team_return[[item]] / 2
            own.store(data.vectors[[item]], one, returns, np.zeros(1), np.zeros(1))
        memory = BlendedMemory(
            OfflineMemory(data.index, data.slices, np.zeros(1), np.zeros(1), np.zeros(1)),
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
    assert batch.record.mask.shape[0] == 6


@pytest.fixture(scope="module")
def models(tiny_run):
    """Trained models with other, untrained decision models that read records."""
    trained = TrainedMAICC(ModelFiles.in_folder(tiny_run), FAMILY.spec, "cpu")

    def with_model(**changes) -> TrainedMAICC:
        other = copy.copy(trained)
        other.decision = make(FAMILY.spec, **changes)
        return other

    return with_model


@pytest.mark.slow
@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("capacity", [0, 3])
def test_lock_step_equals_agents_on_their_own(models, k, capacity):
    """Of more episodes than a record holds, also where the memory is bounded."""
    memory = MemoryConfig(schedule="until_solved", max_episodes=capacity)
    check_lock_step(models(record=2, k=k), memory, episodes=5)


def test_a_record_ends_with_its_agents_death_in_teams_of_any_size(models):
    """The second run has two agents; agent 1 of each run dies before step 4."""
    trained, there = models(record=2, k=0), np.array([[1, 1, 1], [1, 1, 0], [1, 1, 1]], bool)
    team, env = trained.team(SEEDS, MaiccAdapt(), agent_mask=there), make_env()
    for episode in range(3):
        now, step = env.reset([episode] * 3), 0
        while not now.done.all():
            alive, mask = there.copy(), now.action_mask.copy()
            if step >= 4:
                alive[:, 1], mask[:, 1], mask[:, 1, 0] = False, False, True
            actions = team.act(now.observations, mask, alive)
            now, step = env.step(actions), step + 1
            team.observe(actions, now.rewards, now.done)
    stored = team.online.trajectories.step_mask
    assert len(stored) == 8  # rows are the agents that are there
    lived = stored[np.arange(8)[:, None], team.online.choose(2, 1.0)].sum((1, 2))
    now = env.reset([9] * 3)
    team.act(now.observations, now.action_mask, there)
    before = team._seen.visible[:, :-1]  # but for the token of the running step
    assert before.sum(1).tolist() == lived.tolist()
    assert (lived[[1, 4, 6]] == 8).all()  # four steps in each of two episodes
    assert (lived[[0, 2, 3, 5, 7]] > 8).all()


@pytest.mark.slow
@pytest.mark.parametrize("redraw", ["step", "episode"])
def test_agents_who_share_their_draws_need_no_message(models, redraw):
    memory = MemoryConfig(schedule="until_solved", draws="shared", redraw=redraw)
    trained = models(record=2, k=3)
    check_lock_step(trained, memory, episodes=3)
    team, env = trained.team(SEEDS, MaiccAdapt(memory=memory)), make_env()
    play_episode(team, env, [0] * 3)
    drawn = np.stack([team._draws.action, team._draws.explore, team._draws.memory])
    by_run = drawn.reshape(3, 3, 3, -1)
    assert (by_run == by_run[:, :, :1]).all()  # of all agents alike
    assert (by_run[:, 0] != by_run[:, 1]).all()  # of no two runs
    assert (np.ptp(drawn, axis=-1) == 0).all() == (redraw == "episode")


def test_a_team_decides_as_the_model_does_without_anything_kept(models):
    """Also while some agents have no choice to make."""
    trained = models(record=2, k=0)
    team, env = trained.team(SEEDS), make_env()
    for episode in range(3):
        play_episode(team, env, [episode] * 3)
    now = env.reset([9] * 3)
    chosen = team.online.choose(2, 1.0)
    row = np.arange(9)[:, None]
    episodes = Trajectories(
        *(torch.from_numpy(part[row, chosen]) for part in team.online.trajectories)
    )
    record = transitions(episodes)
    logits = team.logits

    def both(active):
        kept = logits(active)
        current = team._current(active)
        none = current.take(torch.empty(len(active), 0, dtype=torch.long))
        direct = trained.decision(current, none, record=record.take(torch.from_numpy(active)))
        assert np.allclose(kept, direct[:, -1].numpy(), atol=1e-5)
        return kept

    team.logits = both
    for _ in range(4):
        mask = now.action_mask.copy()
        mask[1, 0, 1:], mask[1, 0, 0] = False, True
        actions = team.act(now.observations, mask)
        now = env.step(actions)
        team.observe(actions, now.rewards, now.done)


@pytest.mark.slow
def test_an_interrupted_adaptation_equals_an_unbroken_one(models, tmp_path, monkeypatch):
    trained, tasks = models(record=2, k=3), FAMILY.draw_tasks(2, 0)
    config = MaiccAdapt(episodes=6, memory=MemoryConfig(schedule="until_solved"))
    whole = adapt(trained, FAMILY, tasks, config, seed=0)
    real = adaptation.play_episode

    def ctrl_c(team, env, seeds):
        if team.episode == 4:
            raise KeyboardInterrupt
        return real(team, env, seeds)

    monkeypatch.setattr(adaptation, "play_episode", ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        adapt(trained, FAMILY, tasks, config, 0, tmp_path / "kept.npz")
    monkeypatch.setattr(adaptation, "play_episode", real)
    assert adapt(trained, FAMILY, tasks, config, 0, tmp_path / "kept.npz") == whole


@pytest.mark.slow
@pytest.mark.parametrize("record", [0, 2])
@pytest.mark.parametrize("source", ["other_tasks", "own"])
def test_a_run_with_a_record(tmp_path, record, source):
    config = tiny_config()
    model = dataclasses.replace(config.decision.model, record=record, labels="expert")
    config.decision.model, config.decision.retrieval.source = model, source
    if source == "own":
        config.adapt.memory.source = "own"
    config.adapt.memory.schedule = "until_solved"
    run(config, tmp_path)
    from maicc.evaluation.context_value import context_value

    value = context_value(ModelFiles.in_folder(tmp_path), batches=1)
    assert set(value) == {"retrieved", "of other queries"}
