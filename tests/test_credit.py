from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from maicc.evaluation import credit as module
from maicc.evaluation.credit import credit
from maicc.files import ModelFiles
from maicc.types import UserError


def test_a_perfect_prediction_correlates_perfectly(tiny_run, monkeypatch):
    """The head is replaced by one that reads the truth; the table must say so."""
    played = []
    real = module.concatenate

    def concatenate(parts):
        played.append(real(parts))
        return played[-1]

    def keys(self, slices):
        true = played[-1].individual_rewards.swapaxes(1, 2).reshape(slices.actions.shape)
        return type("K", (), {"individual_reward": torch.from_numpy(np.ascontiguousarray(true))})

    monkeypatch.setattr(module, "concatenate", concatenate)
    monkeypatch.setattr("maicc.models.embedding.Embedding.keys", keys)
    result = credit(ModelFiles.in_folder(tiny_run), episodes=2)
    for name in ("step_correlation", "episode_correlation", "team_correlation"):
        assert result[name] == pytest.approx(1.0, abs=1e-3)
    for pair in result["mean"].values():
        assert pair["predicted"] == pair["true"]


def test_untrained_credit_is_reported_as_it_is(tiny_run):
    result = credit(ModelFiles.in_folder(tiny_run), episodes=2)
    assert -0.5 < result["step_correlation"] < 0.6
    assert result["mean"]["nobody paid"]["true"] == 0.0


def test_equal_pay_has_no_credit(tiny_run, monkeypatch):
    real = module.play

    def equal(*args):
        episodes = real(*args)
        shared = np.repeat(episodes.rewards[..., None] / 3, 3, axis=2)
        return dataclasses.replace(episodes, individual_rewards=shared)

    monkeypatch.setattr(module, "play", equal)
    with pytest.raises(UserError, match="pays all agents alike"):
        credit(ModelFiles.in_folder(tiny_run), episodes=1)
