"""HiSSD (Liu et al. 2025): skills shared by all tasks, skills of one task, and a decoder of both.

An agent sees entities. A transformer over them with a recurrent token gives its common skill, which
learns to foresee what the team sees next, the more the better the step was by a value learned
beside it. A second encoder gives its task skill: agents of one task agree in it, tasks differ. A
decoder turns entities and both skills into an action. No memory, no adaptation. A family without an
observation layout is seen as one entity.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maicc.baselines.base import BaselineModule, BaselineTeam
from maicc.config import PolicyConfig
from maicc.data.team_batch import TeamBatch, agents_steps, masked_mean
from maicc.files import ModelFiles
from maicc.models.observations import EntityTransformer, attack_targets, deduplicate_blank
from maicc.streams import Stream
from maicc.training.episode_data import EpisodeData
from maicc.training.family_data import FamilyData
from maicc.types import Spec

DISCOUNT = 0.99
EXPECTILE = 0.9
TARGET_EVERY = 80  # steps between updates of the value's target
TEMPERATURE, MOST_WEIGHT = 10.0, 100.0  # of the advantage
CONTRAST = 0.05  # weight of the task skills' loss


class HiSSDBatch(NamedTuple):
    """Episodes of several tasks."""

    team: TeamBatch
    task: Tensor  # (B,) int64


class Value(nn.Module):
    """The team's value: each agent's, weighted by attention over the team."""

    def __init__(self, spec: Spec, config: PolicyConfig) -> None:
        super().__init__()
        self.encoder = EntityTransformer(spec, config.width, 1, config.heads, config.dropout)
        self.front = nn.Parameter(torch.zeros(1, 1, config.width))
        self.value = nn.Linear(config.width, 1)
        self.share = nn.Linear(config.width, 1)

    def forward(self, observations: Tensor, there: Tensor) -> Tensor:
        """(B, T, N, O) and agents (B, N) bool -> (B, T)."""
        rows, which = deduplicate_blank(observations)
        front = self.front.expand(len(rows), -1, -1)
        z = self.encoder(rows, front, [0])[:, 0][which]
        share = self.share(z).squeeze(-1).masked_fill(~there[:, None], float("-inf")).softmax(-1)
        return (share * self.value(z).squeeze(-1)).sum(-1)


class HiSSD(nn.Module):
    """Planner, task encoder, decoder, and the value that is needed in training only."""

    training_only = ("value", "target", "foresee")

    def __init__(self, spec: Spec, config: PolicyConfig) -> None:
        super().__init__()
        self.spec, self.layout = spec, spec.layout
        half, width = max(config.layers // 2, 1), config.width
        more = (config.heads, config.dropout)
        self.start = nn.Parameter(torch.zeros(width))  # of the recurrent token
        self.planner = EntityTransformer(spec, config.width, half, *more)
        self.foresee = nn.Sequential(
            nn.Linear(2 * width, 2 * width), nn.ReLU(), nn.Linear(2 * width, spec.observation_size)
        )
        self.task_encoder = EntityTransformer(spec, config.width, 1, *more)
        self.task_front = nn.Parameter(torch.zeros(1, 1, width))
        self.bilinear = nn.Parameter(torch.eye(width) / width**0.5)
        self.decoder = EntityTransformer(spec, config.width, half, *more)
        self.plain = nn.Linear(width, self.layout.attack if self.layout else spec.n_actions)
        self.aim = nn.Linear(width, 1) if self.layout else None
        self.value = Value(spec, config)
        self.target = copy.deepcopy(self.value).requires_grad_(False)
        self.scale = 2.0 / (spec.return_max - spec.return_min)

    def common(self, observations: Tensor, before: Tensor | None) -> Tensor:
        """The common skill of agents that see (B, O) and had `before` (B, D): (B, D).

        Who sees nothing, as the dead, keeps what it had.
        """
        if before is None:
            before = self.start.expand(len(observations), -1)
        if self.layout is None:
            return self.planner(observations, before.unsqueeze(1), [0])[:, 0]
        sees = observations.any(1)
        if not sees.any():
            return before
        skill = self.planner(observations[sees], before[sees].unsqueeze(1), [0])[:, 0]
        return before.masked_scatter(sees.unsqueeze(1), skill)

    def of_task(self, observations: Tensor) -> Tensor:
        """The task skill of agents that see (B, O): (B, D)."""
        front = self.task_front.expand(len(observations), -1, -1)
        return self.task_encoder(observations, front, [0])[:, 0]

    def decode(self, observations: Tensor, common: Tensor, task: Tensor) -> Tensor:
        """Logits (B, A): actions of one's own, and one for each target."""
        z = self.decoder(observations, torch.stack([common, task], 1))
        logits = self.plain(z[:, 2])
        if self.aim is None:
            return logits
        sizes = (self.layout.allies[1], self.layout.enemies[1])
        targets = attack_targets(self.layout, observations, *z[:, 3:].split(sizes, 1))
        return torch.cat([logits, self.aim(targets).squeeze(-1)], 1)


class HiSSDData(EpisodeData):
    """Batches of episodes of several tasks; arguments of `EpisodeData`, but

    Args:
        batch_size: Trajectories per batch, in the mean over the dataset's teams.
    """

    def batches(self, step: int, rank: int = 0) -> Iterator[HiSSDBatch]:
        team = float(self.episodes.agent_mask.sum(1).float().mean())
        size = max(round(self.batch_size / team), 2)
        while True:
            rng = np.random.default_rng([self.seed, Stream.HISSD_BATCHES, rank, step])
            index = rng.integers(len(self.task), size=size)
            yield HiSSDBatch(self._batch(index, rng), torch.from_numpy(self.task[index]))
            step += 1


class HiSSDTeam(BaselineTeam):
    """Agents that carry their common skill from step to step, and act greedily."""

    def on_episode_start(self) -> None:
        self._skill: Tensor | None = None

    def logits(self, active: np.ndarray) -> np.ndarray:
        seen = self._tensor(self._now.observations[:, self._step])
        self._skill = self.net.common(seen, self._skill)
        logits = self.net.decode(seen, self._skill, self.net.of_task(seen))
        return logits.double().cpu().numpy()[active]


class HiSSDModule(BaselineModule):
    """HiSSD; arguments of `BaselineModule`."""

    kind = "hissd"
    team_type = HiSSDTeam
    data_type = HiSSDData
    explores = False

    def make_net(self) -> nn.Module:
        return HiSSD(self.spec, self.config)

    @classmethod
    def data(cls, config: Any, files: ModelFiles) -> FamilyData:
        fit = config.decision
        return HiSSDData(
            config.family, str(files.episodes), fit.batch_size, config.seed, fit.window
        )

    def training_step(self, batch: HiSSDBatch, batch_index: int) -> Tensor:
        if self.global_step % TARGET_EVERY == 0:
            self.net.target.load_state_dict(self.net.value.state_dict())
        net, team = self.net, batch.team
        T, N = team.actions.shape[1:]
        each = agents_steps(team)
        value_loss, weight = self._value(team)

        seen = team.observations[:, :T]
        flat = seen.transpose(1, 2).flatten(0, 1)  # (B * N, T, O)
        skills, skill = [], None
        for t in range(T):
            skill = net.common(flat[:, t], skill)
            skills.append(skill)
        common = torch.stack(skills, 1).unflatten(0, (-1, N)).transpose(1, 2)  # (B, T, N, D)

        there = team.agent_mask[:, None, :, None]
        together = (common * there).sum(2, keepdim=True) / there.sum(2, keepdim=True)
        foreseen = net.foresee(torch.cat([common, together.expand_as(common)], -1))
        error = ((foreseen - team.observations[:, 1:]) ** 2).mean(-1)
        foresight = masked_mean(error * weight.unsqueeze(-1), each)

        rows, which = deduplicate_blank(seen)
        own = net.of_task(rows)[which]
        contrast = self._contrast(own, team, batch.task)

        # every step is there for the decoder, of agents that are there
        logits = net.decode(seen[each], common[each], own[each])
        action = self.learn(logits, team.actions[each])
        self.log_dict({"foresight": foresight, "value": value_loss, "contrast": contrast})
        return action + foresight + value_loss + CONTRAST * contrast

    def _value(self, team: TeamBatch) -> tuple[Tensor, Tensor]:
        """The value's loss, by expectile regression, and each step's weight (B, T)."""
        net, T = self.net, team.actions.shape[1]
        now = net.value(team.observations[:, :T], team.agent_mask)
        with torch.no_grad():
            after = net.target(team.observations[:, 1:], team.agent_mask)
            target = team.rewards * net.scale + DISCOUNT * after * (1 - team.done)
        advantage = target - now
        slope = torch.where(advantage > 0, EXPECTILE, 1 - EXPECTILE)
        weight = (TEMPERATURE * advantage.detach()).exp().clamp(max=MOST_WEIGHT)
        return masked_mean(slope * advantage**2, team.step_mask), weight

    def _contrast(self, skills: Tensor, team: TeamBatch, task: Tensor) -> Tensor:
        """InfoNCE: task skills (B, T, N, D) of two agents at one step of each episode agree, those
        of other tasks differ."""
        size = team.agent_mask.sum(1)
        B = len(size)
        chance = torch.Generator().manual_seed(self.step_seed())
        draw = torch.rand(B, 3, generator=chance).to(skills.device)
        step = (draw[:, 0] * team.step_mask.sum(1)).long()
        one = (draw[:, 1] * size).long()
        other = (one + 1 + (draw[:, 2] * (size - 1).clamp(min=1)).long()) % size
        row = torch.arange(B, device=skills.device)
        score = skills[row, step, one] @ self.net.bilinear @ skills[row, step, other].T  # (B, B)
        same = (task[:, None] == task) & ~torch.eye(B, dtype=torch.bool, device=task.device)
        pairs = size > 1
        if not pairs.any():
            return score.sum() * 0.0
        return F.cross_entropy(score.masked_fill(same, float("-inf"))[pairs], row[pairs])
