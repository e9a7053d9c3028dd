from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from maicc.training.episode_data import EpisodeData
from maicc.types import UserError


def data(folder, **options) -> EpisodeData:
    made = EpisodeData("lbf_7x7", str(folder / "episodes.h5"), batch_size=8, **options)
    made.setup("fit")
    return made


def test_a_batch_follows_from_its_step(tiny_run):
    drawn = data(tiny_run).batches(0)
    first = [next(drawn).observations for _ in range(4)]
    again = next(data(tiny_run).batches(3)).observations
    assert torch.equal(first[3], again)


def test_a_dataset_of_other_tasks_is_refused(tiny_run):
    made = data(tiny_run)
    made.family = replace(made.family, training=dict(list(made.family.training.items())[:3]))
    with pytest.raises(UserError, match="made for other training tasks than lbf_7x7 has now"):
        made.prepare_data()


def test_windows_hold_what_was_played_and_often_begin_at_the_start(tiny_run):
    windows, whole = data(tiny_run, window=6), data(tiny_run)
    starts = []
    for step in range(40):
        batch = next(windows.batches(step))
        assert batch.actions.shape[1] <= 6
        assert batch.step_mask[:, 0].all()
        starts += batch.first.tolist()
        if step < 3:
            full = next(whole.batches(step))  # the same episodes
            for b, first in enumerate(batch.first.tolist()):
                n = int(batch.step_mask[b].sum())
                assert torch.equal(batch.actions[b, :n], full.actions[b, first : first + n])
                shown = full.observations[b, first : first + n + 1]
                assert torch.equal(batch.observations[b, : n + 1], shown)
    counts = np.bincount(starts)
    assert counts[0] > counts[1:].max()
    assert len(counts) > 5


@pytest.mark.parametrize(("tokens", "episodes"), [(0, 8), (7 * 15 * 3, 3), (5, 1)])
def test_batches_counted_in_tokens(tiny_run, tokens, episodes):
    batch = next(data(tiny_run, tokens=tokens).batches(0))
    assert len(batch.actions) == episodes
