from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from maicc.config import EmbeddingConfig
from maicc.data.behaviour import play
from maicc.data.team_batch import TeamBatch, masked_mean, team_batch
from maicc.envs import get_family
from maicc.models.embedding import Embedding
from maicc.teams.running import RunningPrefix
from maicc.types import ObsLayout, Trajectories

FAMILY = get_family("lbf_7x7")
# food, oneself and the other two, as a family with a layout would have them
LAYOUT = ObsLayout(own=(2, 2), allies=(4, 2, 2), enemies=(0, 1, 2), attack=5)
SPEC = dataclasses.replace(FAMILY.spec, layout=LAYOUT)
ENCODERS = pytest.mark.parametrize("encoder", ["flat", "entities"])
SMALL = EmbeddingConfig(width=16, layers=2, heads=2)


@pytest.fixture(scope="module")
def batch() -> TeamBatch:
    episodes = play(FAMILY, FAMILY.training_tasks[4], 0.3, [(1, e) for e in range(6)])
    return team_batch(episodes, (0.0, 2.0))


def make(**changes) -> Embedding:
    torch.manual_seed(0)
    return Embedding(SPEC, dataclasses.replace(SMALL, **changes)).eval()


def student(model: Embedding, slices: Trajectories, first: torch.Tensor | None = None):
    taken = model.encoders.encode_taken(slices.observations, slices.actions)
    return model.student(model.encoders, slices, taken, first)


def teacher(model: Embedding, batch: TeamBatch):
    taken = model.encoders.encode_taken(batch.observations[:, :-1], batch.actions)
    return model.teacher(model.encoders, batch, taken)


@ENCODERS
@pytest.mark.parametrize("g", [False, True])
def test_one_pass_gives_the_key_of_every_prefix(batch, g, encoder):
    model, slices = make(return_to_go=g, encoder=encoder), batch.slices()
    keys = model.keys(slices)
    for t in (0, 1, 6, 14):
        prefix = Trajectories(
            slices.observations[:, : t + 1], *(part[:, : t + 1] for part in slices[1:])
        )
        alone = model.keys(prefix).vectors[:, -1]
        assert torch.allclose(alone, keys.vectors[:, t], atol=1e-5)


@ENCODERS
def test_a_key_knows_nothing_of_what_follows_its_observation(batch, encoder):
    model, slices, t = make(encoder=encoder), batch.slices(), 5
    later = slices._replace(
        observations=slices.observations.clone(),
        actions=slices.actions.clone(),
        rewards=slices.rewards.clone(),
    )
    later.observations[:, t + 1 :] += 1
    later.actions[:, t:] = (later.actions[:, t:] + 1) % 6
    later.rewards[:, t:] += 1
    before, after = model.keys(slices).vectors, model.keys(later).vectors
    assert torch.equal(before[:, : t + 1], after[:, : t + 1])
    assert not torch.allclose(before[:, t + 1], after[:, t + 1])


def test_keys_are_sums_of_unit_norm(batch):
    model, slices = make(), batch.slices()
    z = student(model, slices)
    keys = model.keys(slices).vectors
    norm = keys.norm(dim=-1)[slices.step_mask]
    assert torch.allclose(norm, torch.ones_like(norm), atol=1e-5)
    expected = F.normalize(z.observation[:, 3] + z.action[:, 2] + z.outcome[:, 2], dim=-1)
    assert torch.allclose(keys[:, 3], expected, atol=1e-6)
    assert torch.allclose(keys[:, 0], F.normalize(z.observation[:, 0], dim=-1), atol=1e-6)


def test_slices_of_very_different_length_are_read_as_one_by_one(batch):
    model, slices = make(), batch.slices()
    short = torch.arange(15) < torch.linspace(1, 15, len(slices.actions)).long()[:, None]
    slices = slices._replace(step_mask=short)
    together = student(model, slices)
    for i in range(len(short)):
        alone = student(model, slices.take(np.s_[i : i + 1]))
        for all_of_them, one in zip(together, alone, strict=True):
            assert torch.allclose(all_of_them[i][short[i]], one[0][short[i]], atol=1e-5)


@ENCODERS
@pytest.mark.parametrize("g", [False, True])
def test_the_running_prefix_gives_the_same_keys(batch, g, encoder):
    model, slices = make(return_to_go=g, encoder=encoder), batch.slices()
    keys, running = model.keys(slices), RunningPrefix(model)
    played = slices.step_mask
    for t in range(15):
        query = running.query(slices.observations[:, t], slices.return_to_go[:, t])
        running.advance(
            slices.actions[:, t], slices.rewards[:, t], slices.done[:, t], slices.completed[:, t]
        )
        assert torch.allclose(query[played[:, t]], keys.vectors[:, t][played[:, t]], atol=1e-5)


@pytest.mark.parametrize("attention", ["joint", "factored"])
def test_the_student_sees_its_own_agent_only_and_the_teacher_sees_all(batch, attention):
    model = make(attention=attention)
    changed = batch._replace(observations=batch.observations.clone())
    changed.observations[:, :, 2] += 1  # agent 2 sees something else
    before, after = (student(model, b.slices()).observation for b in (batch, changed))
    of_agent_2 = torch.arange(len(before)) % 3 == 2
    assert torch.equal(before[~of_agent_2], after[~of_agent_2])
    assert not torch.allclose(before[of_agent_2], after[of_agent_2])
    before, after = (teacher(model, b).observation for b in (batch, changed))
    assert not torch.allclose(before[:, :, 0], after[:, :, 0])


@pytest.mark.parametrize("attention", ["joint", "factored"])
@pytest.mark.parametrize("g", [False, True])
def test_the_teacher_is_causal_and_hides_actions_from_observations(batch, attention, g):
    model = make(attention=attention, return_to_go=g)
    changed = batch._replace(actions=batch.actions.clone())
    changed.actions[:, 4, 1] = (changed.actions[:, 4, 1] + 1) % 6
    a, b = teacher(model, batch), teacher(model, changed)
    assert torch.equal(a.observation[:, :5], b.observation[:, :5])
    assert torch.equal(a.action[:, :4], b.action[:, :4])
    assert not torch.allclose(a.action[:, 4, 0], b.action[:, 4, 0])  # a teammate's action
    assert not torch.allclose(a.outcome[:, 4], b.outcome[:, 4])
    rewards = batch.rewards.clone()
    rewards[:, 4] += 1  # an outcome is seen from the next step on
    b = teacher(model, batch._replace(rewards=rewards))
    assert torch.equal(a.action[:, :5], b.action[:, :5])
    assert not torch.allclose(a.observation[:, 5], b.observation[:, 5])


@pytest.mark.parametrize(
    "changes",
    [{}, {"attention": "factored"}, {"return_to_go": True}, {"encoder": "entities"}],
)
def test_trimming_changes_nothing(batch, changes):
    """A team of two whose episodes end after nine steps, padded and not."""
    model = make(**changes)
    padded = batch._replace(
        step_mask=batch.step_mask & (torch.arange(15) < 9),
        agent_mask=torch.tensor([[True, True, False]]).repeat(6, 1),
    )
    trimmed = padded.trimmed()
    assert trimmed.observations.shape[:3] == (6, 10, 2)
    for a, b in zip(model.losses(padded), model.losses(trimmed), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_losses_against_a_second_way_of_computing_them(batch):
    model = make()
    losses = model.losses(batch)
    z = teacher(model, batch)
    action, reward, dynamics = [], [], []
    for b in range(len(batch.actions)):
        for t in range(int(batch.step_mask[b].sum())):
            log_p = model.action_head.plain(z.observation[b, t]).log_softmax(-1)
            action.append(np.mean([-log_p[j, batch.actions[b, t, j]].item() for j in range(3)]))
            total = sum(model.reward_head(z.action[b, t, j]).item() for j in range(3))
            reward.append((batch.rewards[b, t].item() - total) ** 2)
            nll = []
            for j in range(3):
                encoded = model.encoders.observation(batch.observations[b, t, j]).embedding
                head = model.dynamics_head
                out = head.own(head.shared(torch.cat([z.outcome[b, t], encoded])).relu())
                mean, log_var = out[:8], out[8:].clamp(-2, 0)
                normal = torch.distributions.Normal(mean, (log_var / 2).exp())
                nll.append(-normal.log_prob(batch.observations[b, t + 1, j]).mean().item())
            dynamics.append(np.mean(nll) - 0.5 * np.log(2 * np.pi))  # up to a constant
    assert losses.action.item() == pytest.approx(np.mean(action), rel=1e-4)
    assert losses.reward.item() == pytest.approx(np.mean(reward), rel=1e-4)
    assert losses.dynamics.item() == pytest.approx(np.mean(dynamics), rel=1e-4)


def test_distillation_moves_the_student_only(batch):
    model = make(action_weight=0, reward_weight=0, dynamics_weight=0, credit="teacher")
    model.total(model.losses(batch)).backward()
    has_gradient = lambda part: any(p.grad is not None and p.grad.any() for p in part.parameters())  # noqa: E731
    assert has_gradient(model.student)
    assert not has_gradient(model.teacher)


@pytest.mark.parametrize("distillation", ["mse", "kl"])
def test_distillation_is_zero_for_equals(distillation):
    model = make(distillation=distillation)
    z = torch.randn(2, 5, 16)
    assert model._distance(z, z).abs().max() < 1e-6
    assert (model._distance(z, z + torch.randn_like(z)) > 0).all()


def test_maicc_s_has_no_teacher_and_regresses_the_whole_reward(batch):
    model = make(teacher=False)
    losses = model.losses(batch)
    assert model.teacher is None
    assert losses.distillation is None
    z = student(model, batch.slices()).action.unflatten(0, (-1, 3))
    predicted = model.reward_head(z).squeeze(-1)  # (B, N, T)
    expected = masked_mean(((batch.rewards[:, None] - predicted) ** 2).mean(1), batch.step_mask)
    assert losses.reward.item() == pytest.approx(expected.item(), rel=1e-4)


def test_local_credit_is_the_students_and_sums_to_the_team_reward(batch):
    model = make(credit="local")
    slices = batch.slices()
    encoded = model.encoders.observation(slices.observations).embedding
    z = student(model, slices).action
    credit = model.individual_reward(z, slices, encoded).unflatten(0, (-1, 3)).sum(1)
    expected = masked_mean((batch.rewards - credit) ** 2, batch.step_mask)
    assert model.losses(batch).credit.item() == pytest.approx(expected.item(), rel=1e-4)
    assert make(credit="teacher").losses(batch).credit is None


def test_local_credit_sees_the_next_observation_but_no_team_reward_of_its_step(batch):
    model, slices, t = make(credit="local"), batch.slices(), 4
    rewarded = slices._replace(rewards=slices.rewards.clone())
    rewarded.rewards[:, t:] += 1
    moved = slices._replace(observations=slices.observations.clone())
    moved.observations[:, t + 1] += 1
    credit, same, other = (model.keys(s).individual_reward for s in (slices, rewarded, moved))
    assert torch.equal(credit[:, : t + 1], same[:, : t + 1])
    assert torch.equal(credit[:, :t], other[:, :t])
    assert not torch.allclose(credit[:, t], other[:, t])


def test_queries_are_made_in_evaluation_mode(batch):
    model = make(dropout=0.5)
    model.train()
    first, second = (model.keys(batch.slices()).vectors for _ in range(2))
    assert torch.equal(first, second)
    assert model.training


@pytest.mark.parametrize(
    "changes",
    [{}, {"attention": "factored"}, {"credit": "teacher"}, {"teacher": False}],
)
def test_agents_that_are_not_there_change_nothing(batch, changes):
    """A team of two, once padded with a third agent's noise and once with another's."""
    torch.manual_seed(0)
    model = make(**changes)
    alone = batch._replace(agent_mask=torch.tensor([[True, True, False]]).repeat(6, 1))
    other = alone._replace(observations=alone.observations.clone(), actions=alone.actions.clone())
    other.observations[:, :, 2] = 5.0
    other.actions[:, :, 2] = (other.actions[:, :, 2] + 1) % 6
    for a, b, whole in zip(
        model.losses(alone), model.losses(other), model.losses(batch), strict=True
    ):
        assert (a is None) == (b is None)
        if a is not None:
            assert torch.allclose(a, b, atol=1e-6)
            assert not torch.allclose(a, whole, atol=1e-6)


@pytest.mark.parametrize("changes", [{}, {"attention": "factored"}, {"encoder": "entities"}])
def test_a_window_from_the_start_is_the_episode_and_a_later_one_knows_its_place(batch, changes):
    model = make(**changes)
    start = torch.zeros(6, dtype=torch.long)
    whole, begun = (teacher(model, b) for b in (batch, batch.window(start, 5)))
    assert torch.allclose(whole.observation[:, :5], begun.observation, atol=1e-5)
    later = batch.window(start + 4, 5)
    assert torch.equal(later.actions, batch.actions[:, 4:9])
    assert torch.equal(later.observations, batch.observations[:, 4:10])
    assert torch.equal(later.first, start + 4)
    # each episode has its own place, and both teacher and student know it
    places = torch.tensor([0, 1, 2, 3, 4, 5])
    spread, swapped = (
        batch.window(places, 5),
        batch.window(places, 5)._replace(first=places.flip(0)),
    )
    for name in ("action", "credit"):
        first, second = (getattr(model.losses(b), name) for b in (spread, swapped))
        assert not torch.allclose(first, second, atol=1e-6), name
    agents = spread.slices()
    together = student(model, agents, places.repeat_interleave(3)).observation
    alone = student(model, agents.take(slice(9, 12)), places[[3, 3, 3]]).observation
    assert torch.allclose(together[9:12], alone, atol=1e-5)


def test_credit_of_a_windows_last_step_waits_for_what_followed(batch):
    model = make()
    window = batch.window(torch.zeros(6, dtype=torch.long), 5)
    window = window._replace(done=torch.zeros_like(window.done))
    paid = window._replace(rewards=window.rewards.clone())
    paid.rewards[:, 4] += 1.0
    assert torch.equal(model.losses(window).credit, model.losses(paid).credit)
    over = paid._replace(done=paid.done.clone())
    over.done[:, 4] = 1.0
    assert model.losses(over).credit > model.losses(paid).credit
