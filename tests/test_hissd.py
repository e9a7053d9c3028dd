"""HiSSD over entities."""

from __future__ import annotations

import dataclasses

import torch
from torch.nn import functional as F

from maicc.baselines.hissd import HiSSD
from maicc.config import PolicyConfig
from maicc.envs import get_family
from maicc.training.fit import seeded
from maicc.types import ObsLayout

SMALL = PolicyConfig(width=16, layers=2, heads=2)


def test_hissd_reads_those_who_are_there_together_as_one_by_one():
    layout = ObsLayout(own=(0, 2), allies=(2, 6, 2), enemies=(14, 5, 2), attack=2)
    spec = dataclasses.replace(
        get_family("lbf_7x7").spec, observation_size=24, n_actions=7, layout=layout
    )
    with seeded(0):
        net = HiSSD(spec, SMALL).eval()
        seen, front = torch.randn(40, 24), torch.randn(40, 2, SMALL.width)
        there = torch.rand(40, 11) < torch.linspace(0.05, 0.9, 40)[:, None]
    seen[:, 2:] *= there.repeat_interleave(2, 1)
    together = net.decoder(seen, front)
    alone = torch.cat([net.decoder(seen[i : i + 1], front[i : i + 1]) for i in range(40)])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(net.decoder(seen, front, [1])[:, 0], together[:, 1], atol=1e-5)
    # what masked attention over all places gives
    x, shown = net.decoder.tokens(seen)
    shown = F.pad(shown, (2, 0), value=True)
    mask = shown[:, None, None].expand(-1, 1, 14, -1)
    padded = net.decoder.transformer(torch.cat([front, x], 1), mask)[0]
    assert torch.allclose(together, padded * shown.unsqueeze(-1), atol=1e-5)

    seen[3] = 0.0  # dead
    before = torch.randn(40, SMALL.width)
    after = net.common(seen, before)
    assert torch.equal(after[3], before[3])
    assert (after != before).any(1).sum() == 39
    assert torch.equal(net.common(seen * 0, before), before)
