"""HiSSD (Liu et al. 2025): skills shared by all tasks, skills of one task, and a decoder of both.

An agent observes entities. A transformer over them with a recurrent token gives its common skill.
This skill learns to foresee what the team observes next. A step counts the more, the better it was
by a value that is learned beside it. A second encoder gives the agent's task skill: agents of one
task agree in it, tasks differ. A decoder turns entities and both skills into an action. There is no
memory and no adaptation. An observation of a family without a layout is read as one entity.
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
from maicc.models.batching import take_rows, take_where
from maicc.models.observations import EntityTransformer, aims, deduplicate_blank, layout_of
from maicc.streams import Stream
from maicc.training.episode_data import EpisodeData
from maicc.training.family_data import FamilyData
from maicc.types import Spec

DISCOUNT = 0.99
EXPECTILE = 0.9
TARGET_EVERY = 80  # steps between updates of the value's target
TEMPERATURE, MAX_WEIGHT = 10.0, 100.0  # a step's weight is exp(TEMPERATURE * advantage)
CONTRAST = 0.05  # weight of the task skills' loss


class HiSSDBatch(NamedTuple):
    """Episodes of several tasks."""

    team: TeamBatch
    task: Tensor  # (B,) int64


def _reader(spec: Spec, config: PolicyConfig, layers: int) -> EntityTransformer:
    """Makes a transformer over entities, or over one token where there is no layout."""
    return EntityTransformer(
        spec, config.width, layers, config.heads, config.dropout,
        fourier=config.encoder == "fourier",
    )  # fmt: skip


def _front_output(reader: EntityTransformer, observations: Tensor, front: Tensor) -> Tensor:
    """Output (B, D) of the one token (B, 1, D) in front of the entities of (B, O)."""
    first = torch.zeros(1, dtype=torch.long, device=front.device)
    return reader(observations, front, first).squeeze(1)


class Value(nn.Module):
    """Value of a team: the mean of its agents' values, weighted by attention over the team."""

    def __init__(self, spec: Spec, config: PolicyConfig) -> None:
        super().__init__()
        self.encoder = _reader(spec, config, 1)
        self.front = nn.Parameter(torch.zeros(1, 1, config.width))
        self.value = nn.Linear(config.width, 1)
        self.share = nn.Linear(config.width, 1)

    def forward(self, observations: Tensor, agent_mask: Tensor) -> Tensor:
        """Computes values (B, T) of observations (B, T, N, O) of the agents (B, N) in the mask."""
        rows, row = deduplicate_blank(observations)
        front = self.front.expand(len(rows), -1, -1)
        z = take_rows(_front_output(self.encoder, rows, front), row)
        absent = ~agent_mask[:, None]
        share = self.share(z).squeeze(-1).masked_fill(absent, float("-inf")).softmax(-1)
        return (share * self.value(z).squeeze(-1)).sum(-1)


class HiSSD(nn.Module):
    """Planner, task encoder, decoder, and the value, which only training needs."""

    training_only = ("value", "target", "foresee")

    def __init__(self, spec: Spec, config: PolicyConfig) -> None:
        super().__init__()
        self.spec, self.layout = spec, spec.layout
        half, width = max(config.layers // 2, 1), config.width
        self.start = nn.Parameter(torch.zeros(width))  # of the recurrent token
        self.planner = _reader(spec, config, half)
        self.foresee = nn.Sequential(
            nn.Linear(2 * width, 2 * width), nn.ReLU(), nn.Linear(2 * width, spec.observation_size)
        )
        self.task_encoder = _reader(spec, config, 1)
        self.task_front = nn.Parameter(torch.zeros(1, 1, width))
        self.bilinear = nn.Parameter(torch.eye(width) / width**0.5)
        self.decoder = _reader(spec, config, half)
        self.plain = nn.Linear(width, self.layout.attack if self.layout else spec.n_actions)
        self.aim = nn.Linear(width, 1) if self.layout else None
        self.value = Value(spec, config)
        self.target = copy.deepcopy(self.value).requires_grad_(False)
        low, high = spec.bounds
        self.scale = 2.0 / (high - low)

    def common(self, observations: Tensor, previous: Tensor | None) -> Tensor:
        """Computes the common skill (B, D) of agents.

        In families with a layout an agent with a blank observation, such as a dead one, keeps the
        skill that it had.

        Args:
            observations: (B, O).
            previous: (B, D) their common skill at the step before; None at the first step.
        """
        if previous is None:
            previous = self.start.expand(len(observations), -1)
        if self.layout is None:
            return _front_output(self.planner, observations, previous.unsqueeze(1))
        filled = observations.any(1)
        if not filled.any():
            return previous
        skill = _front_output(self.planner, observations[filled], previous[filled].unsqueeze(1))
        return previous.masked_scatter(filled.unsqueeze(1), skill)

    def of_task(self, observations: Tensor) -> Tensor:
        """Computes the task skill (B, D) of agents from their observations (B, O)."""
        front = self.task_front.expand(len(observations), -1, -1)
        return _front_output(self.task_encoder, observations, front)

    def decode(self, observations: Tensor, common: Tensor, task: Tensor) -> Tensor:
        """Computes logits (B, A): first the actions without a target, then one attack per target.

        Args:
            observations: (B, O).
            common: (B, D) common skills.
            task: (B, D) task skills.
        """
        front = torch.stack([common, task], 1)
        if self.aim is None:
            return self.plain(self.decoder(observations, front)[:, 2])
        wanted = F.pad(aims(layout_of(self.spec), observations), (1, 0))  # oneself, then targets
        z = self.decoder(observations, front, torch.where(wanted < 0, wanted, wanted + 2))
        return torch.cat([self.plain(z[:, 0]), self.aim(z[:, 1:]).squeeze(-1)], 1)


class HiSSDData(EpisodeData):
    """Batches of episodes of several tasks; arguments of `EpisodeData`.

    Only `batch_size` is counted otherwise.

    Args:
        batch_size: Trajectories per batch, in the mean over the dataset's teams.
    """

    def batches(  # type: ignore[override]  # these batches hold the tasks as well
        self, step: int, rank: int = 0, *, held_back: bool = False
    ) -> Iterator[HiSSDBatch]:
        """Yields batches from a fit's step on; they follow from seed, step and rank alone."""
        team = self.episodes.agent_mask.sum(1).mean()
        size = max(round(self.batch_size / team), 2)
        shown = self.held if held_back else self.trained
        while True:
            rng = np.random.default_rng([self.seed, Stream.HISSD_BATCHES, rank, step])
            index = shown[rng.integers(len(shown), size=size)]
            yield HiSSDBatch(self._batch(index, rng), torch.from_numpy(self.task[index]))
            step += 1


class HiSSDTeam(BaselineTeam):
    """Agents that carry their common skill from step to step, and act greedily."""

    net: HiSSD

    def on_episode_start(self) -> None:
        """Forgets the common skill."""
        self._skill: Tensor | None = None

    def logits(self, active: np.ndarray) -> np.ndarray:
        """Computes the logits (Q, A) of the `active` rows; the skills of all rows move on."""
        observations = self._tensor(self._now.observations[:, self._step])
        self._skill = self.net.common(observations, self._skill)
        logits = self.net.decode(observations, self._skill, self.net.of_task(observations))
        return logits.double().cpu().numpy()[active]


class HiSSDModule(BaselineModule):
    """Trains HiSSD; arguments of `BaselineModule`."""

    net: HiSSD
    kind = "hissd"
    team_type = HiSSDTeam
    data_type = HiSSDData
    on_bar = ("action", "accuracy")
    explores = False

    def make_net(self) -> nn.Module:
        return HiSSD(self.spec, self.config)

    @classmethod
    def data(cls, config: Any, files: ModelFiles) -> FamilyData:
        """Makes the data module of whole teams."""
        fit = config.decision
        return HiSSDData(
            config.family, str(files.episodes), fit.batch_size, config.seed, fit.window,
            held_back=fit.held_back,
        )  # fmt: skip

    def training_step(self, batch: HiSSDBatch, batch_index: int) -> Tensor:
        """Moves the target of the value now and then."""
        if self.global_step % TARGET_EVERY == 0:
            self.net.target.load_state_dict(self.net.value.state_dict())
        return super().training_step(batch, batch_index)

    def losses(self, batch: HiSSDBatch) -> dict[str, Tensor]:
        """Computes the losses of action, foresight, value and contrast, and their sum."""
        net, team = self.net, batch.team
        T, N = team.actions.shape[1:]
        alive = agents_steps(team)  # (B, T, N)
        value_loss, weight = self._value(team)

        observations = team.observations[:, :T]
        flat = observations.transpose(1, 2).flatten(0, 1)  # (B * N, T, O)
        skills: list[Tensor] = []
        skill: Tensor | None = None
        for t in range(T):
            skill = net.common(flat[:, t], skill)
            skills.append(skill)
        common = torch.stack(skills, 1).unflatten(0, (-1, N)).transpose(1, 2)  # (B, T, N, D)

        agent_mask = team.agent_mask[:, None, :, None]
        team_mean = (common * agent_mask).sum(2, keepdim=True) / agent_mask.sum(2, keepdim=True)
        prediction = net.foresee(torch.cat([common, team_mean.expand_as(common)], -1))
        error = ((prediction - team.observations[:, 1:]) ** 2).mean(-1)
        foresight = masked_mean(error * weight.unsqueeze(-1), alive)

        rows, row = deduplicate_blank(observations)
        task_skills = take_rows(net.of_task(rows), row)
        contrast = self._contrast(task_skills, team, batch.task)

        skills_alive = (take_where(skill, alive) for skill in (common, task_skills))
        logits = net.decode(observations[alive], *skills_alive)
        action = self.imitation(logits, team.actions[alive])
        return {
            "loss": action["loss"] + foresight + value_loss + CONTRAST * contrast,
            "action": action["loss"],
            "accuracy": action["accuracy"],
            "foresight": foresight,
            "value": value_loss,
            "contrast": contrast,
        }

    def _value(self, team: TeamBatch) -> tuple[Tensor, Tensor]:
        """Computes the value's loss, by expectile regression, and each step's weight (B, T)."""
        net, T = self.net, team.actions.shape[1]
        value = net.value(team.observations[:, :T], team.agent_mask)
        with torch.no_grad():
            next_value = net.target(team.observations[:, 1:], team.agent_mask)
            target = team.rewards * net.scale + DISCOUNT * next_value * (1 - team.terminated)
        advantage = target - value
        slope = torch.where(advantage > 0, EXPECTILE, 1 - EXPECTILE)
        weight = (TEMPERATURE * advantage.detach()).exp().clamp(max=MAX_WEIGHT)
        return masked_mean(slope * advantage**2, team.step_mask), weight

    def _contrast(self, skills: Tensor, team: TeamBatch, task: Tensor) -> Tensor:
        """Computes the InfoNCE loss of task skills.

        The skills of two agents at one step of an episode agree; those of other tasks differ. Both
        agents take part in the step: one that is dead sees nothing of its task.

        Args:
            skills: (B, T, N, D).
            task: (B,) number of each episode's task.
        """
        B, N = len(task), skills.shape[2]
        chance = torch.Generator().manual_seed(self.step_seed())
        draw = torch.rand(B, 1 + N, generator=chance).to(skills.device)
        step = (draw[:, 0] * team.step_mask.sum(1)).long()
        row = torch.arange(B, device=skills.device)
        here = agents_steps(team)[row, step]  # (B, N)
        pairs = here.sum(1) > 1
        if not pairs.any():
            return skills.sum() * 0.0
        one, other = draw[:, 1:].masked_fill(~here, -1.0).topk(2).indices.T
        score = skills[row, step, one] @ self.net.bilinear @ skills[row, step, other].T  # (B, B)
        same = (task[:, None] == task) & ~torch.eye(B, dtype=torch.bool, device=task.device)
        left_out = same | ~pairs
        return F.cross_entropy(score.masked_fill(left_out, float("-inf"))[pairs], row[pairs])
