"""Batches without needless padding."""

from __future__ import annotations

import torch

from maicc.models.batching import split_by_length


def test_groups_of_about_one_length_where_that_saves_padding():
    length = torch.tensor([9, 1, 5, 3, 8, 2, 7, 1])
    groups = split_by_length(length)
    assert torch.cat(groups).sort().values.tolist() == list(range(8))
    assert [length[group].tolist() for group in groups] == [[1, 1], [2, 3], [5, 7], [8, 9]]
    assert len(split_by_length(torch.tensor([15, 14, 15, 13]))) == 1
    assert [len(group) for group in split_by_length(torch.tensor([4, 1]))] == [1, 1]
