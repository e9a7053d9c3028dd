"""Traces of adaptation: what agents saw and did, and what they remembered when they decided.

A trace is one file, RESULT.traces.npz beside the result RESULT.json. It holds every episode of the
first few runs. Dimensions: R runs that are traced, E episodes, T steps, N agents, O numbers of an
observation, A actions, C episodes of a record, K retrieved trajectories. Episodes are counted from
0, and -1 stands for none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maicc.envs import BatchStep
from maicc.files import read_arrays, write_arrays
from maicc.types import Task, UserError

if TYPE_CHECKING:
    from maicc.teams.lockstep import LockStepTeam

SUFFIX = ".traces.npz"
OFFLINE, OWN = 0, 1  # sources of a retrieved trajectory
_NONE = (
    "actions", "repeated", "record", "source", "task", "episode", "agent",
)  # arrays in which -1 stands for none  # fmt: skip


@dataclass
class Traces:
    """What happened in the traced runs, step by step.

    A retrieved trajectory is remembered at the step at which it was retrieved: the student embeds
    prefixes, and those of one step are compared.

    Args:
        family: Name of the task family.
        tasks: Task of each run.
        rosters: Names of the agents of each run.
        seeds: Seed of each run's team.
        resets: (R, E) int64, seed of the environment in each episode.
        observations: (R, E, T, N, O) float32, before the action.
        alive: (R, E, T, N) bool, agents that are there and take part.
        legal: (R, E, T, N, A) bool, legal actions.
        actions: (R, E, T, N) int16; -1 after the end and of agents that are not there.
        rewards: (R, E, T) float32, of the team.
        played: (R, E, T) bool, steps that were played.
        probability: (R, E, T, N, A) float32, what the model gives each legal action.
        sampled: (R, E, T, N) bool, whether the action was sampled; else it is the best one, or a
            repeated one.
        repeated: (R, E, T, N) int32, own episode whose action was repeated; -1 for none.
        record: (R, E, N, C) int32, own episodes that the agent's record showed; -1 for none.
        source: (R, E, T, N, K) int8, memory that a retrieved trajectory is from: 0 the dataset, 1
            the agent's own; -1 for none.
        task: (R, E, T, N, K) int32, number of its task in the dataset; -1 for an own one.
        episode: (R, E, T, N, K) int32, its episode, of the dataset or the agent's own.
        agent: (R, E, T, N, K) int16, its agent.
        similarity: (R, E, T, N, K) float32, cosine to the agent's prefix.
        utility: (R, E, T, N, K) float32, its hybrid utility score.
        team_return: (R, E, T, N, K) float32, its return on the family's scale [0, 1].
    """

    family: str
    tasks: list[Task]
    rosters: list[list[str]]
    seeds: list[int]
    resets: np.ndarray
    observations: np.ndarray
    alive: np.ndarray
    legal: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    played: np.ndarray
    probability: np.ndarray
    sampled: np.ndarray
    repeated: np.ndarray
    record: np.ndarray
    source: np.ndarray
    task: np.ndarray
    episode: np.ndarray
    agent: np.ndarray
    similarity: np.ndarray
    utility: np.ndarray
    team_return: np.ndarray

    @property
    def returns(self) -> np.ndarray:
        """Team returns (R, E)."""
        return self.rewards.sum(2)


_TOLD = ("family", "tasks", "rosters", "seeds")  # fields that are not arrays
ARRAYS = tuple(field.name for field in fields(Traces) if field.name not in _TOLD)


def traces_of(folder: Path) -> Path:
    """Names the trace in the folder of a run."""
    return folder / "adapt" / f"result{SUFFIX}"


def load_traces(path: str | Path) -> Traces:
    """Loads a trace.

    Args:
        path: A trace, or the folder of a run.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = traces_of(Path(path)) if Path(path).is_dir() else Path(path)
    if not path.name.endswith(SUFFIX):
        raise UserError(f"{path}: expected the folder of a run, or a trace named NAME{SUFFIX}")
    if not path.exists():
        raise UserError(f"{path}: no traces; the run has not adapted yet, or had adapt.traces=0")
    arrays = read_arrays(path)
    try:
        told = json.loads(str(arrays["told"]))
        return Traces(
            family=told["family"],
            tasks=[Task(**task) for task in told["tasks"]],
            rosters=told["rosters"],
            seeds=told["seeds"],
            **{name: arrays[name] for name in ARRAYS},
        )
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: holds no traces; remove it and adapt again") from None


class Tracer:
    """Writes down what the first runs of an adaptation do.

    Args:
        team: The team of all runs.
        runs: Number of runs that are traced.
        episodes: Number of episodes.
        told: Family, tasks, rosters and seeds of these runs, in plain JSON.
    """

    def __init__(
        self, team: LockStepTeam, runs: int, episodes: int, told: Mapping[str, Any]
    ) -> None:
        self.team, self.told = team, told
        self.rows, self.run, self.agent = team.rows_of(range(runs))
        team.traced = self.rows
        spec = team.spec
        step = (runs, episodes, spec.max_steps)
        each = (*step, spec.n_agents)
        retrieved, record = (*each, team.k), (runs, episodes, spec.n_agents, team.record)
        self.arrays: dict[str, np.ndarray] = {
            "resets": np.zeros((runs, episodes), np.int64),
            "observations": np.zeros((*each, spec.observation_size), np.float32),
            "alive": np.zeros(each, bool),
            "legal": np.zeros((*each, spec.n_actions), bool),
            "actions": np.full(each, -1, np.int16),
            "rewards": np.zeros(step, np.float32),
            "played": np.zeros(step, bool),
            "probability": np.zeros((*each, spec.n_actions), np.float32),
            "sampled": np.zeros(each, bool),
            "repeated": np.full(each, -1, np.int32),
            "record": np.full(record, -1, np.int32),
            "source": np.full(retrieved, -1, np.int8),
            "task": np.full(retrieved, -1, np.int32),
            "episode": np.full(retrieved, -1, np.int32),
            "agent": np.full(retrieved, -1, np.int16),
            "similarity": np.zeros(retrieved, np.float32),
            "utility": np.zeros(retrieved, np.float32),
            "team_return": np.zeros(retrieved, np.float32),
        }

    def start(self, resets: Sequence[int]) -> None:
        """Begins the team's next episode, again if it broke off."""
        for name, array in self.arrays.items():
            array[:, self.team.episode] = -1 if name in _NONE else 0
        self.arrays["resets"][:, self.team.episode] = resets[: len(self.arrays["resets"])]

    def acted(self, t: int, seen: BatchStep, actions: np.ndarray) -> None:
        """Writes down a step: what the agents saw, what they chose, and why."""
        team, a, n = self.team, self.arrays, len(self.arrays["resets"])
        at = (self.run, team.episode, t, self.agent)
        running = ~seen.done[self.run]
        a["observations"][at] = seen.observations[self.run, self.agent]
        a["alive"][at] = seen.alive[self.run, self.agent] & running
        a["legal"][at] = seen.action_mask[self.run, self.agent]
        a["actions"][at] = np.where(running, actions[self.run, self.agent], -1)
        a["played"][:, team.episode, t] = ~seen.done[:n]
        assert team.choices is not None
        born = team.online.born
        rows = self.rows
        slot = team.choices.repeated[rows]
        a["probability"][at] = team.choices.probability[rows]
        a["sampled"][at] = team.choices.sampled[rows]
        repeated = np.full(len(rows), -1)
        repeated[slot >= 0] = born[rows[slot >= 0], slot[slot >= 0]] - 1
        a["repeated"][at] = repeated
        shown = team.shown[rows]
        if t == 0 and shown.shape[1]:
            episodes = born[rows[:, None], shown] - 1
            a["record"][self.run, team.episode, self.agent, : shown.shape[1]] = episodes
        if team.retrieved is not None:
            self._retrieved(t)

    def _retrieved(self, t: int) -> None:
        """Writes down where the retrieved trajectories of a step are from."""
        team: Any = self.team
        reading, retrieval = team.retrieved
        asked = np.flatnonzero(np.isin(reading, self.rows))
        found = type(retrieval)(*(part[asked] for part in retrieval))
        place = np.searchsorted(self.rows, reading[asked])
        rows, item = self.rows[place][:, None], found.item
        memory, none = team.memory, found.item < 0
        offline = np.broadcast_to(found.offline[:, None], item.shape)
        team_return, task = memory.origin(rows[:, 0], found)
        agent = np.broadcast_to(self.agent[place][:, None], item.shape)
        episode, own = memory.offline.episode[np.where(offline, item, 0)], ~offline & ~none
        episode[own] = team.online.born[np.broadcast_to(rows, item.shape)[own], item[own]] - 1
        values = {
            "source": np.where(offline, OFFLINE, OWN),
            "task": task,
            "episode": episode,
            "agent": np.where(offline, memory.offline.agent[np.where(offline, item, 0)], agent),
            "similarity": found.similarity,
            "utility": found.score,
            "team_return": team_return,
        }
        at = (self.run[place], team.episode, t, self.agent[place])
        for name, value in values.items():
            self.arrays[name][at] = np.where(none, -1 if name in _NONE else 0, value)

    def observed(self, t: int, rewards: np.ndarray) -> None:
        """Writes down what a step paid."""
        self.arrays["rewards"][:, self.team.episode, t] = rewards[: len(self.arrays["rewards"])]

    def state(self, episodes: int) -> dict[str, np.ndarray]:
        """Arrays of the episodes that are finished, for an adaptation that is interrupted."""
        return {f"trace_{name}": array[:, :episodes] for name, array in self.arrays.items()}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes over what `state` gave."""
        for name, array in self.arrays.items():
            kept = state[f"trace_{name}"]
            array[:, : kept.shape[1]] = kept

    def write(self, path: Path) -> None:
        """Writes the trace, whole or not at all."""
        told = np.array(json.dumps(self.told))
        write_arrays(path, {"told": told, **self.arrays}, compressed=True)
