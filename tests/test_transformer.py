from __future__ import annotations

import pytest
import torch

from maicc.models.transformer import Transformer, attend, causal_mask


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Transformer(width=16, layers=2, heads=4).eval()


def test_the_future_changes_nothing_before_it(model):
    x = torch.randn(2, 7, 16)
    changed = x.clone()
    changed[:, 4:] += torch.randn(2, 3, 16)
    before, _ = model(x)
    after, _ = model(changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_no_mask_is_the_causal_mask(model):
    x = torch.randn(2, 7, 16)
    assert torch.allclose(model(x)[0], model(x, causal_mask(7))[0], atol=1e-6)


@pytest.mark.parametrize("cuts", [[3], [1, 2, 6]])
def test_kept_keys_and_values_give_the_same(model, cuts):
    x = torch.randn(2, 7, 16)
    whole, _ = model(x)
    past, parts = None, []
    for start, end in zip([0, *cuts], [*cuts, 7], strict=True):
        y, past = model(x[:, start:end], causal_mask(end - start, start), past)
        parts.append(y)
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)


def test_causal_mask():
    assert causal_mask(2, 1).tolist() == [[True, True, False], [True, True, True]]


def test_a_past_needs_a_mask(model):
    _, past = model(torch.randn(1, 2, 16))
    with pytest.raises(ValueError, match="causal_mask"):
        model(torch.randn(1, 2, 16), None, past)


def test_width_must_fit_heads():
    with pytest.raises(ValueError, match="multiple of heads"):
        Transformer(10, 1, 4)


def test_blocks_of_queries_equal_one_piece():
    q, k, v = torch.randn(3, 2, 4, 200, 8).unbind()
    whole = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.allclose(attend(q, k, v), whole, atol=1e-5)


@torch.no_grad()
def test_only_the_wanted_outputs_are_computed(model):
    x = torch.randn(3, 10, 16)
    positions = torch.tensor([[0, 9], [3, 4], [7, 2]])
    everything, _ = model(x)
    wanted, kv = model(x, positions=positions)
    assert torch.allclose(wanted, everything[torch.arange(3)[:, None], positions], atol=1e-6)
    assert kv[-1][0].shape[2] == 10  # keys of all tokens
    masked, _ = model(x, causal_mask(10), positions=positions)
    assert torch.allclose(masked, wanted, atol=1e-6)
    _, past = model(torch.randn(3, 4, 16))
    mask = torch.rand(3, 1, 10, 14) < 0.7
    mask[..., 0] = True
    behind, _ = model(x, mask, past)
    behind_wanted, _ = model(x, mask, past, positions)
    assert torch.allclose(behind_wanted, behind[torch.arange(3)[:, None], positions], atol=1e-6)


def test_narrow_heads_attend_in_full_precision():
    q, k, v = torch.randn(3, 2, 4, 20, 8).bfloat16().unbind()
    full = attend(q.float(), k.float(), v.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(attend(q, k, v), full.bfloat16())
