from __future__ import annotations

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from maicc.config import DecisionConfig
from maicc.data.behaviour import play
from maicc.data.team_batch import team_batch
from maicc.envs import get_family
from maicc.experiments.validate import check
from maicc.models.decision import DecisionBatch, DecisionTransformer
from maicc.training.modules import DecisionModule
from maicc.types import ObsLayout, Trajectories, UserError
from tests.conftest import tiny_config

FAMILY = get_family("lbf_7x7")
FORMS = list(itertools.product(["fused", "four"], ["independent", "concatenated"]))


@pytest.fixture(scope="module")
def slices() -> Trajectories:
    episodes = play(FAMILY, FAMILY.training_tasks[4], 0.3, [(1, e) for e in range(6)])
    return team_batch(episodes, (0.0, 2.0)).slices()


def make(**changes) -> DecisionTransformer:
    torch.manual_seed(0)
    small = DecisionConfig(width=16, layers=2, heads=2, k=3, record=0, labels="behaviour")
    # food, oneself and the other two, as a family with a layout would have them
    layout = ObsLayout(own=(2, 2), allies=(4, 2, 2), enemies=(0, 1, 2), attack=5)
    spec = dataclasses.replace(FAMILY.spec, layout=layout)
    model = DecisionTransformer(spec, dataclasses.replace(small, **changes)).eval()
    for block in model.transformer.blocks:  # so that what is looked at matters before training
        torch.nn.init.normal_(block.attention.qkv.weight, std=0.3)
        torch.nn.init.normal_(block.attention.project.weight, std=0.3)
    return model


def contexts_of(slices: Trajectories, index) -> Trajectories:
    return slices.take(torch.as_tensor(index))


@pytest.mark.parametrize("encoder", ["flat", "fourier", "entities"])
@pytest.mark.parametrize(("tokens", "context"), FORMS)
def test_an_action_follows_from_what_came_before_it(slices, tokens, context, encoder):
    """Changing a step's own action and outcome, or anything later, leaves its logits equal."""
    model, t = make(tokens=tokens, context=context, encoder=encoder), 5
    current = slices.take(slice(0, 2))
    contexts = contexts_of(slices, [[4, 5, 6], [7, 8, 9]])
    later = current._replace(
        actions=current.actions.clone(),
        rewards=current.rewards.clone(),
        observations=current.observations.clone(),
    )
    later.actions[:, t:] = (later.actions[:, t:] + 1) % 6
    later.rewards[:, t:] += 1
    later.observations[:, t + 1 :] += 1
    before, after = model(current, contexts), model(later, contexts)
    assert torch.allclose(before[:, : t + 1], after[:, : t + 1], atol=1e-6)
    assert not torch.allclose(before[:, t + 1], after[:, t + 1])


@pytest.mark.parametrize(("tokens", "context"), FORMS)
def test_padding_of_a_context_is_never_seen(slices, tokens, context):
    model = make(tokens=tokens, context=context)
    current, contexts = slices.take(slice(0, 2)), contexts_of(slices, [[4, 5, 6], [7, 8, 9]])
    contexts = contexts._replace(step_mask=contexts.step_mask.clone())
    contexts.step_mask[:, 1, 6:] = False
    changed = contexts._replace(observations=contexts.observations.clone())
    changed.observations[:, 1, 6:] += 3
    assert torch.allclose(model(current, contexts), model(current, changed), atol=1e-6)
    changed.observations[:, 1, 5] += 3
    assert not torch.allclose(model(current, contexts), model(current, changed))


@pytest.mark.parametrize(("tokens", "context"), FORMS)
def test_the_order_of_contexts_matters_only_when_concatenated(slices, tokens, context):
    model, current = make(tokens=tokens, context=context), slices.take(slice(0, 1))
    a = model(current, contexts_of(slices, [[4, 8, 12]]))
    b = model(current, contexts_of(slices, [[12, 4, 8]]))
    assert torch.allclose(a, b, atol=1e-5) == (context == "independent")


@pytest.mark.parametrize("tokens", ["fused", "four"])
def test_a_prefix_decides_as_the_whole_trajectory_does(slices, tokens):
    model = make(tokens=tokens)
    contexts, current = contexts_of(slices, [[4, 5, 6]]), slices.take(slice(0, 1))
    whole = model(current, contexts)
    prefix = current.take(np.s_[:, :7])
    assert torch.allclose(model(prefix, contexts)[:, -1], whole[:, 6], atol=1e-5)


def test_loss_is_cross_entropy_over_the_supervised_steps(slices):
    current, contexts = slices.take(slice(0, 2)), contexts_of(slices, [[4, 5, 6], [7, 8, 9]])
    expert = (current.actions + 1) % 6
    expert[0, 3] = -1
    batch = DecisionBatch(current, contexts, torch.tensor([2, 4]), expert)
    model = make(label_smoothing=0.0)
    log_p = model(current, contexts).log_softmax(-1)
    picked = log_p.gather(-1, current.actions.unsqueeze(-1)).squeeze(-1)
    every = -picked[current.step_mask].mean()
    last = -(picked[0, 2] + picked[1, 4]) / 2
    assert torch.allclose(model.loss(batch)[0], every, atol=1e-6)
    assert torch.allclose(
        make(label_smoothing=0.0, supervise="last").loss(batch)[0], last, atol=1e-6
    )
    supervised = current.step_mask & (expert >= 0)
    taught = make(label_smoothing=0.0, labels="expert")
    log_p = taught(current, contexts).log_softmax(-1)
    best = -log_p.gather(-1, expert.clamp(min=0).unsqueeze(-1)).squeeze(-1)[supervised].mean()
    assert torch.allclose(taught.loss(batch)[0], best, atol=1e-6)
    smooth = F.cross_entropy(
        model(current, contexts)[current.step_mask],
        current.actions[current.step_mask],
        label_smoothing=0.1,
    )
    assert torch.allclose(make(label_smoothing=0.1).loss(batch)[0], smooth)


def test_only_played_actions_are_learned_with_the_return_to_go(slices):
    current, contexts = slices.take(slice(0, 2)), contexts_of(slices, [[4, 5, 6], [7, 8, 9]])
    other = current._replace(return_to_go=current.return_to_go + 1.0)
    for changes, told in (
        ({"labels": "behaviour"}, True),
        ({"labels": "expert"}, False),
        ({"labels": "expert", "return_to_go": True}, True),
    ):
        for tokens in ("fused", "four"):
            model = make(tokens=tokens, **changes)
            same = torch.allclose(model(current, contexts), model(other, contexts), atol=1e-5)
            assert same != told


def test_a_batch_taken_by_length_has_the_loss_of_the_batch(slices):
    length = torch.tensor([2, 15, 3, 5])
    model, current = make(), slices.take(slice(0, 4))
    current = current._replace(step_mask=torch.arange(15) < length[:, None])
    contexts = contexts_of(slices, [[4, 5, 6], [7, 8, 9], [10, 11, 12], [13, 14, 15]])
    mask = torch.arange(15) < torch.tensor([1, 15, 4, 6])[:, None, None]
    contexts = contexts._replace(step_mask=contexts.step_mask & mask)
    step = torch.zeros(4, dtype=torch.long)
    batch = DecisionBatch(current, contexts, step, torch.full((4, 15), -1))
    logits = model(current, contexts)[current.step_mask]
    expected = F.cross_entropy(logits, current.actions[current.step_mask])
    shapes, outputs = [], model._outputs
    model._outputs = lambda *a: shapes.append(a[0].actions.shape) or outputs(*a)
    assert torch.allclose(model.loss(batch)[0], expected, atol=1e-6)
    assert shapes == [(1, 2), (1, 3), (1, 5), (1, 15)]


def test_no_context(slices):
    model, current = make(k=0), slices.take(slice(0, 2))
    none = contexts_of(slices, torch.zeros(2, 0, dtype=torch.long))
    assert model(current, none).shape == (2, 15, 6)


def test_a_wrong_number_of_contexts(slices):
    with pytest.raises(
        ValueError, match=r"context has 2 .* trained with 3; set decision\.model\.k=3"
    ):
        make()(slices.take(slice(0, 1)), contexts_of(slices, [[1, 2]]))


@pytest.mark.slow
@pytest.mark.parametrize(("tokens", "context"), FORMS)
def test_it_learns_to_copy_its_context(slices, tokens, context):
    """Actions drawn at random are in the context and nowhere else."""
    torch.manual_seed(0)
    model = make(tokens=tokens, context=context, k=1, label_smoothing=0.0).train()
    adam = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(300):
        same = slices._replace(actions=torch.randint(6, slices.actions.shape))
        contexts = same.each(lambda part: part.unsqueeze(1))
        step = torch.zeros(18, dtype=torch.long)
        losses = model.loss(DecisionBatch(same, contexts, step, same.actions))
        adam.zero_grad()
        losses.actions.backward()
        adam.step()
    assert losses.accuracy > 0.9


def test_the_experts_actions_are_learned_where_there_are_any():
    config = tiny_config()
    config.decision.model.labels = "expert"
    check(config, FAMILY)
    with pytest.raises(UserError, match="labels=expert learns the actions of the best"):
        check(config, dataclasses.replace(FAMILY, expert=None))
    module = DecisionModule(FAMILY.spec, config.decision.model)
    unknown = SimpleNamespace(k=3, stored=SimpleNamespace(expert=np.full((4, 15), -1)))
    module.trainer = SimpleNamespace(datamodule=unknown)
    with pytest.raises(UserError, match="this dataset has none"):
        module.on_fit_start()


def test_a_batch_without_labels_teaches_nothing(slices):
    current, contexts = slices.take(slice(0, 2)), contexts_of(slices, [[4, 5, 6], [7, 8, 9]])
    unknown = torch.full_like(current.actions, -1)
    model = make(labels="expert")
    losses = model.loss(DecisionBatch(current, contexts, torch.tensor([2, 4]), unknown))
    losses.actions.backward()
    assert (float(losses.actions), float(losses.accuracy)) == (0, 0)
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
