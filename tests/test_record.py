"""The record in the model: an agent's own past episodes, each read on its own."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
import pytest
import torch

from maicc.data.behaviour import play
from maicc.data.team_batch import team_batch
from maicc.experiments.validate import check
from maicc.models.batching import trimmed
from maicc.models.record import (
    StepTokens,
    Transitions,
    packed,
    paid_in_between,
    step_tokens,
    transitions,
)
from maicc.types import Trajectories, UserError
from tests.conftest import tiny_config
from tests.teams import FAMILY, untrained


@pytest.fixture(scope="module")
def slices() -> Trajectories:
    episodes = play(FAMILY, FAMILY.training_tasks[4], 0.3, [(1, e) for e in range(6)])
    return team_batch(episodes, (0.0, 2.0)).slices()


def steps_of(slices: Trajectories, index) -> Transitions:
    return packed(transitions(slices.take(torch.as_tensor(index))))


def record_of(slices: Trajectories, index) -> dict[str, Any]:
    """A record of all episodes, of which each query is shown those of its row."""
    return {"record": slices, "shown": torch.as_tensor(index)}


def test_steps_of_a_record_by_hand(slices):
    index = torch.tensor([[3, 4]])
    steps, lengths = transitions(slices.take(index)), slices.step_mask[[3, 4]].sum(1).tolist()
    assert steps.mask.sum() == sum(lengths)
    T = slices.actions.shape[1]
    assert torch.equal(steps.observations[0, T + 2], slices.observations[4, 2])
    assert steps.step[0, T : T + 3].tolist() == [0, 1, 2]
    assert packed(steps).mask.all()


def test_a_token_knows_what_was_seen_and_what_followed(slices):
    model, index, t = untrained(FAMILY.spec, record=2, k=0), torch.tensor([[3, 4]]), 2
    steps = steps_of(slices, index)
    first, second = slices.step_mask[[3, 4]].sum(1).tolist()

    def x(steps):
        return step_tokens(steps, model.encoders, model.following, model.role.weight[2]).x[0]

    def changed(place):
        seen = steps.observations.clone()
        seen[0, place] += 1.0
        differ = (x(steps) - x(steps._replace(observations=seen))).abs().amax(-1) > 1e-5
        return differ.nonzero().flatten().tolist()

    assert changed(t) == [t - 1, t]
    assert changed(first) == [first]  # nothing of one episode follows what is in another
    encoded = model.encoders.observation(steps.observations[0])
    blank = model.encoders.observation(torch.zeros(1, FAMILY.spec.observation_size)).embedding
    e, last = model.encoders, first - 1
    by_hand = encoded.embedding[last] + e.action(steps.actions[0, last]) + e.step.weight[last]
    by_hand = by_hand + model.following(blank[0]) + model.role.weight[2]
    by_hand = by_hand + e.encode_outcome(*(part[0, last] for part in steps[3:6]))
    assert torch.allclose(x(steps)[last], by_hand, atol=1e-5)
    assert len(x(steps)) == first + second


def test_a_record_of_long_episodes_is_thinned_out(slices):
    index = [[3, 4], [5, 5]]
    steps = transitions(slices.take(torch.tensor(index)))
    short = steps.mask.clone()
    short[1, 4:] = False
    steps = steps._replace(mask=short)
    tokens = StepTokens(steps.observations, steps.mask)
    whole, few = packed(tokens), packed(tokens, 6)
    size = int(whole.mask[0].sum())
    assert few.mask.sum(1).tolist() == [6, 4]
    kept = [ceil(i * (size - 1) / 5) for i in range(6)]  # the first and the last are among them
    assert torch.equal(few.x[0], whole.x[0, kept])
    assert torch.equal(packed(tokens, 1).x[0, 0], whole.x[0, size - 1])
    assert torch.equal(few.x[1, :4], steps.observations[1, :4])
    assert torch.equal(packed(tokens, 10**6).mask, whole.mask)
    bounded = untrained(FAMILY.spec, record=2, k=0, record_steps=12)
    read = bounded.encode_record(slices.take(torch.tensor([3, 4, 5])))
    assert read.visible.sum(1).tolist() == [min(n, 6) for n in slices.step_mask[3:6].sum(1)]
    paid = paid_in_between(steps, 6)
    for row in range(2):
        order = packed(steps._replace(step=torch.arange(30).expand(2, 30)), 6).step[row]
        order = order[: int(few.mask[row].sum())]
        so_far = (steps.rewards * steps.mask)[row].cumsum(0)[order]
        assert torch.allclose(paid.rewards[row, order].cumsum(0), so_far)
    whole = untrained(FAMILY.spec, record=2, k=0).encode_record(slices.take([3]))
    assert whole.visible.sum() == slices.step_mask[3].sum() > 6


@pytest.mark.parametrize("at", [-1, -2])
def test_a_long_episode_that_was_won_at_the_end_reads_as_won(slices, at):
    """The last step is read, and what was paid in a step that is not read comes with the next."""
    model = untrained(FAMILY.spec, record=2, k=0, record_steps=10)
    lost = slices.take(torch.tensor([int(slices.step_mask.sum(1).argmax())]))
    size = int(lost.step_mask.sum())
    rewards = lost.rewards.clone()
    rewards[0, size + at] += 1.0
    ends = [model.encode_episodes(e).kv[-1][1] for e in (lost, lost._replace(rewards=rewards))]
    assert size > 5
    assert (ends[0] - ends[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "changes",
    [{"record": 2, "k": 3}, {"record": 2, "k": 0}, {"k": 0}, {"k": 3, "tokens": "four"},
     {"k": 2, "record": 2, "tokens": "four"}],
)  # fmt: skip
@pytest.mark.parametrize("in_place", [False, True])
def test_steps_read_one_by_one_decide_as_the_whole_trajectory_does(slices, changes, in_place):
    model, k = untrained(FAMILY.spec, **changes), changes["k"]
    current = slices.take(slice(0, 2))
    retrieved = torch.tensor([[7, 8, 9][:k], [6, 8, 5][:k]]).long()
    contexts = slices.take(retrieved)
    record = record_of(slices, [[10, 11], [12, 13]]) if model.config.record else {}
    whole = model(current, contexts, **record)
    seen = model.encode_record(slices).joined(record["shown"]) if record else None
    # all are encoded once, in another batch, as the team does it
    past = model.encode_contexts(slices).joined(retrieved) if k else None
    for t in range(current.actions.shape[1]):
        two = current.take(np.s_[:, max(t - 1, 0) : t + 1])
        encoded = model.encoders.observation(two.observations)
        if in_place and seen is not None and not seen.room:
            longest = 4 * FAMILY.spec.max_steps
            seen = seen.with_room(longest, k * longest)
        logits, seen = model.extend(two, encoded, t, seen, past)
        assert torch.allclose(logits, whole[:, t], atol=1e-5)


@pytest.mark.parametrize("k", [0, 3])
def test_the_order_of_a_record_means_nothing_and_its_steps_mean_something(slices, k):
    model = untrained(FAMILY.spec, record=2, k=k)
    current, contexts = slices.take(slice(0, 1)), slices.take(torch.tensor([[7, 8, 9][:k]]).long())
    shown = [[3, 4]], [[4, 3]], [[-1, -1]]
    a, b, c = (model(current, contexts, **record_of(slices, index)) for index in shown)
    assert torch.allclose(a, b, atol=1e-5)
    assert not torch.allclose(a, c, atol=1e-3)


def test_each_episode_of_a_record_is_read_as_if_it_stood_alone(slices):
    model = untrained(FAMILY.spec, record=2, k=0)
    lengths = slices.step_mask.sum(1)
    assert len(lengths.unique()) > 2
    together = model.encode_record(slices)
    for i in (0, 4, 9):
        alone = model.encode_record(trimmed(slices.take([i])))
        there = together.visible[i]
        assert alone.visible.sum() == there.sum() == lengths[i]
        for (k, v), (own_k, own_v) in zip(together.kv, alone.kv, strict=True):
            assert torch.allclose(k[i, :, there], own_k[0], atol=1e-5)
            assert torch.allclose(v[i, :, there], own_v[0], atol=1e-5)


def test_queries_share_a_record_as_if_each_had_its_own(slices):
    model = untrained(FAMILY.spec, record=2, k=3)
    current = slices.take(slice(0, 4))
    contexts = slices.take(torch.tensor([[7, 8, 9], [6, 8, 9], [5, 8, 9], [7, 5, 6]]))
    index = [[12, 13], [10, -1], [-1, -1], [12, 13]]
    shared = model(current, contexts, **record_of(slices, index))
    for q, own in enumerate(index):
        one, its_contexts = current.take([q]), contexts.take([q])
        few = slices.take([i for i in own if i >= 0])
        shown = torch.arange(len(few.actions))[None]
        alone = model(one, its_contexts, record=few, shown=shown)
        assert torch.allclose(shared[q], alone[0], atol=1e-5)


def test_the_future_changes_nothing_before_it(slices):
    model, t = untrained(FAMILY.spec, record=2, k=0), 4
    current, record = slices.take(slice(0, 2)), record_of(slices, [[10, 11], [12, 13]])
    later = current._replace(actions=current.actions.clone(), rewards=current.rewards + 1.0)
    later.actions[:, t:] = (later.actions[:, t:] + 1) % 6
    later = later._replace(rewards=torch.cat([current.rewards[:, :t], later.rewards[:, t:]], 1))
    none = slices.take(torch.empty(2, 0, dtype=torch.long))
    a, b = model(current, none, **record), model(later, none, **record)
    assert torch.allclose(a[:, : t + 1], b[:, : t + 1], atol=1e-6)
    assert not torch.allclose(a[:, t + 1], b[:, t + 1], atol=1e-4)


def test_a_record_that_is_missing_or_not_read_is_an_error(slices):
    none = slices.take(torch.empty(1, 0, dtype=torch.long))
    with pytest.raises(ValueError, match=r"decision\.model\.record=2"):
        untrained(FAMILY.spec, record=2, k=0)(slices.take(slice(0, 1)), none)
    record = record_of(slices, [[1, 2]])
    with pytest.raises(ValueError, match=r"decision\.model\.record=0"):
        untrained(FAMILY.spec, k=0)(slices.take(slice(0, 1)), none, **record)
    config = tiny_config()
    config.decision.model.record, config.decision.model.context = 2, "concatenated"
    with pytest.raises(UserError, match="needs decision"):
        check(config, FAMILY)
