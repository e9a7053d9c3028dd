"""HiSSD over entities."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch.nn import functional as F

from maicc.baselines.hissd import HiSSD, HiSSDModule
from maicc.config import PolicyConfig
from maicc.data.dataset import EpisodeFile
from maicc.data.team_batch import team_batch
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
    second = net.decoder(seen, front, torch.tensor([1]))[:, 0]
    assert torch.allclose(second, together[:, 1], atol=1e-5)
    # what masked attention over all places gives
    x, place = net.decoder.tokens(seen)
    shown = F.pad(place > 0, (2, 0), value=True)
    mask = shown[:, None, None].expand(-1, 1, 14, -1)
    padded = net.decoder.transformer(torch.cat([front, x[place]], 1), mask)[0]
    assert torch.allclose(together, padded * shown.unsqueeze(-1), atol=1e-5)

    seen[3] = 0.0  # dead
    before = torch.randn(40, SMALL.width)
    after = net.common(seen, before)
    assert torch.equal(after[3], before[3])
    assert (after != before).any(1).sum() == 39
    assert torch.equal(net.common(seen * 0, before), before)


def test_hissd_reads_waves_where_there_is_no_layout():
    spec, flat = get_family("lbf_7x7").spec, dataclasses.replace(SMALL, encoder="flat")
    assert HiSSD(spec, SMALL).planner.tokens.whole.waves is not None
    assert HiSSD(spec, flat).planner.tokens.whole.waves is None


def module_and_team(tiny_run):
    """A module, and one episode of each training task."""
    episodes = EpisodeFile(tiny_run / "episodes.h5").read()
    spec = get_family("lbf_7x7").spec
    with seeded(0):
        module = HiSSDModule(spec, SMALL)
    first = [int((episodes.task == task).argmax()) for task in range(9)]
    return module, team_batch(episodes.take(np.array(first)), spec.bounds), torch.arange(9)


def test_pairs_are_of_agents_that_take_part(tiny_run):
    module, team, task = module_and_team(tiny_run)
    skills = torch.randn(*team.actions.shape, SMALL.width)
    alive = team.alive.clone()
    alive[:, :, 1] = False  # one of three is dead, and of the last team two are
    alive[-1, :, 2] = False
    team = team._replace(alive=alive)
    loss = module._contrast(skills, team, task)
    skills[:, :, 1] = skills[-1, :, 2] = 100.0
    assert torch.equal(module._contrast(skills, team, task), loss)
    skills[0, :, 0] += 1.0
    assert module._contrast(skills, team, task) != loss
    nobody = team._replace(alive=torch.zeros_like(alive))
    assert module._contrast(skills, nobody, task) == 0.0


def test_a_time_limit_is_no_end_for_the_value(tiny_run):
    module, team, _ = module_and_team(tiny_run)
    ended = team.done.bool().any(1) & (team.terminated.sum(1) == 0)
    assert ended.any()
    assert (team.terminated <= team.done).all()
    module.net.target.value.bias.data += 1.0  # what follows is worth one more
    _, weight = module._value(team)
    module.net.target.value.bias.data -= 1.0
    _, before = module._value(team)
    last = team.step_mask.sum(1) - 1
    row = torch.arange(len(last))
    assert ((weight > before)[row, last] == (team.terminated[row, last] == 0)).all()
