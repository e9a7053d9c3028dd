"""Whole episodes of a team as tensors, on which the embedding is trained."""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor

from maicc.data.episodes import EpisodeBatch, outcomes
from maicc.types import Trajectories

_OF_STEPS = (
    "actions", "rewards", "done", "terminated", "completed", "return_to_go", "step_mask", "alive",
)  # fields (B, T, ...)  # fmt: skip


class TeamBatch(NamedTuple):
    """Whole episodes as tensors."""

    observations: Tensor  # (B, T+1, N, O)
    actions: Tensor  # (B, T, N) int64
    rewards: Tensor  # (B, T) of the team
    done: Tensor  # (B, T)
    terminated: Tensor  # (B, T), done but for a time limit
    completed: Tensor  # (B, T)
    return_to_go: Tensor  # (B, T)
    step_mask: Tensor  # (B, T) bool
    alive: Tensor  # (B, T, N) bool, steps in which an agent has a part
    agent_mask: Tensor  # (B, N) bool, False where a smaller team is padded
    first: Tensor  # (B,) int64, the number of the first step; 0 unless this is a window

    def trimmed(self) -> TeamBatch:
        """Cuts steps that no episode has, and agents that no team has."""
        T, N = int(self.step_mask.sum(1).max()), int(self.agent_mask.sum(1).max())
        cut = {name: getattr(self, name)[:, :T] for name in _OF_STEPS}
        cut |= {name: cut[name][:, :, :N] for name in ("actions", "alive")}
        return self._replace(
            **cut,
            observations=self.observations[:, : T + 1, :N],
            agent_mask=self.agent_mask[:, :N],
        )

    def window(self, first: Tensor, steps: int) -> TeamBatch:
        """Cuts a window of `steps` steps out of each episode, from its step `first` (B,) on."""
        observed = first[:, None] + torch.arange(steps + 1, device=first.device)
        played = observed[:, :-1]
        row = torch.arange(len(first), device=first.device)[:, None]
        return self._replace(
            **{name: getattr(self, name)[row, played] for name in _OF_STEPS},
            observations=self.observations[row, observed],
            first=self.first + first,
        )

    def slices(self) -> Trajectories:
        """Slices of single agents, agents fastest, padding included: leading dimension B * N."""
        n = self.actions.shape[2]

        def each_agent(team: Tensor) -> Tensor:
            return repeat(team, "b t -> (b n) t", n=n)

        return Trajectories(
            observations=rearrange(self.observations[:, :-1], "b t n o -> (b n) t o"),
            actions=rearrange(self.actions, "b t n -> (b n) t"),
            rewards=each_agent(self.rewards),
            done=each_agent(self.done),
            completed=each_agent(self.completed),
            return_to_go=each_agent(self.return_to_go),
            step_mask=rearrange(agents_steps(self), "b t n -> (b n) t"),
        )


def team_batch(episodes: EpisodeBatch, bounds: tuple[float, float]) -> TeamBatch:
    """Makes tensors of episodes, and works out their outcomes and returns-to-go."""
    outcome = outcomes(episodes, bounds)
    return TeamBatch(
        observations=torch.from_numpy(episodes.observations),
        actions=torch.from_numpy(episodes.actions),
        rewards=torch.from_numpy(episodes.rewards),
        done=torch.from_numpy(outcome.done),
        terminated=torch.from_numpy(outcome.done * episodes.terminated[:, None]),
        completed=torch.from_numpy(outcome.completed),
        return_to_go=torch.from_numpy(outcome.return_to_go),
        step_mask=torch.from_numpy(outcome.step_mask),
        alive=torch.from_numpy(outcome.alive),
        agent_mask=torch.from_numpy(episodes.agent_mask),
        first=torch.zeros(len(episodes), dtype=torch.long),
    )


def agents_steps(batch: TeamBatch) -> Tensor:
    """Steps that were played, of agents that are there and alive: (B, T, N) bool."""
    return batch.alive & batch.step_mask.unsqueeze(2) & batch.agent_mask.unsqueeze(1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` (of the same shape) is True."""
    return (values * mask).sum() / mask.sum().clamp(min=1)
