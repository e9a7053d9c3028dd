"""Slices: the trajectories of single agents, taken from whole episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from maicc.data.alive import cut_at_death
from maicc.data.episodes import EpisodeBatch, outcomes
from maicc.types import Trajectories


class Observed:
    """Observations (M, T, O) of slices, copied only when they are asked for.

    Args:
        episodes: (E, T+1, N, O) observations of episodes, in memory or on disk.
        episode: (m,) number of each slice's episode.
        agent: (m,) number of its agent.
        more: (M - m, T, O) observations of further slices.
    """

    def __init__(
        self, episodes: np.ndarray, episode: np.ndarray, agent: np.ndarray, more: np.ndarray | None
    ) -> None:
        self.episodes, self.episode, self.agent, self.more = episodes, episode, agent, more
        count = len(episode) + (0 if more is None else len(more))
        self.shape = (count, episodes.shape[1] - 1, episodes.shape[3])
        self.dtype = episodes.dtype

    def __getitem__(self, index: Any) -> np.ndarray:
        """Copies the observations of slices: (..., T, O)."""
        return self.take(np.arange(self.shape[0])[index], self.shape[1])

    def take(self, index: np.ndarray, steps: int) -> np.ndarray:
        """Copies the first steps of the slices at `index` (...,): (..., steps, O)."""
        if self.more is None:
            return np.asarray(self.episodes[self.episode[index], :steps, self.agent[index]])
        of_more = index >= len(self.episode)
        seen = np.empty((*index.shape, steps, self.shape[2]), self.dtype)
        own = index[~of_more]
        seen[~of_more] = self.episodes[self.episode[own], :steps, self.agent[own]]
        seen[of_more] = self.more[index[of_more] - len(self.episode), :steps]
        return seen


@dataclass(frozen=True)
class Slices:
    """Single agents' slices of episodes, agents fastest; padded agents have no slice."""

    trajectories: Trajectories  # (M, T, ...) arrays, of which the observations are `Observed`
    episode: np.ndarray  # (M,) number of the episode
    agent: np.ndarray  # (M,) which of its agents
    team_size: np.ndarray  # (M,) agents in the episode
    task: np.ndarray  # (M,) number of its task
    behaviour: np.ndarray  # (M,) number of the behaviour that played it; -1 none of the dataset's
    expert: np.ndarray  # (M, T) what the best behaviour policy would have done; -1 unknown

    def __len__(self) -> int:
        return len(self.task)

    @property
    def length(self) -> np.ndarray:
        """Steps of each slice: (M,)."""
        return self.trajectories.step_mask.sum(1)

    def take(self, index: np.ndarray) -> Trajectories:
        """Copies the slices at `index` (...,), up to the last step of the longest: (..., T', ...).

        At -1 stands a slice of which no step was played.
        """
        t = self.trajectories
        step_mask = t.step_mask[index] & (index >= 0)[..., None]
        steps = max(int(step_mask.sum(-1).max(initial=0)), 1)
        parts = {
            name: part.take(index, steps) if name == "observations" else part[index][..., :steps]
            for name, part in t._asdict().items()
        }
        return Trajectories(**{**parts, "step_mask": step_mask[..., :steps]})

    def followed_by(self, more: Trajectories, expert: np.ndarray, task: np.ndarray) -> Slices:
        """Puts further slices behind these, which are of no episode.

        Args:
            more: (R, T, ...) arrays.
            expert: (R, T) int64.
            task: (R,) numbers of their tasks.
        """
        seen, none = self.trajectories.observations, np.full(len(task), -1)
        parts = {
            name: np.concatenate([part, getattr(more, name)])
            for name, part in self.trajectories._asdict().items()
            if name != "observations"
        }
        observed = Observed(seen.episodes, seen.episode, seen.agent, more.observations)
        return Slices(
            Trajectories(observations=observed, **parts),
            episode=np.concatenate([self.episode, none]),
            agent=np.concatenate([self.agent, none]),
            team_size=np.concatenate([self.team_size, none]),
            task=np.concatenate([self.task, task]),
            behaviour=np.concatenate([self.behaviour, none]),
            expert=np.concatenate([self.expert, expert]),
        )


def slices(episodes: EpisodeBatch, bounds: tuple[float, float]) -> Slices:
    """Takes episodes apart into single agents' slices, each up to its agent's death.

    Args:
        bounds: Lowest and highest return of the family.
    """
    episode, agent = np.nonzero(episodes.agent_mask)
    outcome = outcomes(episodes, bounds)
    trajectories = Trajectories(
        observations=Observed(episodes.observations, episode, agent, None),
        actions=episodes.actions[episode, :, agent],
        rewards=episodes.rewards[episode],
        done=outcome.done[episode],
        completed=outcome.completed[episode],
        return_to_go=outcome.return_to_go[episode],
        step_mask=outcome.step_mask[episode],
    )
    return Slices(
        cut_at_death(trajectories, outcome.alive[episode, :, agent]),
        episode,
        agent,
        team_size=episodes.agent_mask.sum(1)[episode],
        task=episodes.task[episode],
        behaviour=episodes.behaviour[episode],
        expert=episodes.expert_actions[episode, :, agent],
    )


def by_task_and_agent(stored: Slices, item: np.ndarray) -> list[list[np.ndarray]]:
    """Groups the slices `item` by task, and those of a task by agent."""
    task, agent = stored.task[item], stored.agent[item]
    return [
        [item[(task == t) & (agent == a)] for a in np.unique(agent[task == t])]
        for t in np.unique(task)
    ]
