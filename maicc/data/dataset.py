"""The dataset file: whole episodes of several tasks and behaviours, in HDF5.

Schema 1. Root attributes: `schema` (1), `spec`, `tasks`, `behaviours` (JSON), `fingerprint`
(SHA-256 of everything else). Datasets, E episodes padded with zeros to T steps:

    observations        (E, T+1, N, O)  float32   the last one follows the last action
    actions             (E, T, N)       int16
    action_mask         (E, T+1, N, A)  bool
    agent_mask          (E, N)          bool      False where a smaller team is padded
    rewards             (E, T)          float32   of the team
    individual_rewards  (E, T, N)       float32   as the environment paid them
    length              (E,)            int32     steps played
    terminated          (E,)            bool      ended by the task
    truncated           (E,)            bool      ended by the time limit
    task                (E,)            int32     index into `tasks`
    behaviour           (E,)            int32     index into `behaviours`
    seed                (E,)            int64     of the environment's reset
    expert_actions      (E, T, N)       int16     of the best behaviour policy; -1 where unknown.
                                                  A file without this field can be read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from maicc.data.alive import alive_steps_in, cut_at_death
from maicc.data.returns import completed, return_to_go
from maicc.files import whole_file
from maicc.types import Behaviour, EpisodeBatch, Spec, Task, Trajectories, UserError

SCHEMA = 1
FIELDS = {
    "observations": np.float32,
    "actions": np.int16,
    "action_mask": np.bool_,
    "agent_mask": np.bool_,
    "rewards": np.float32,
    "individual_rewards": np.float32,
    "length": np.int32,
    "terminated": np.bool_,
    "truncated": np.bool_,
    "task": np.int32,
    "behaviour": np.int32,
    "seed": np.int64,
    "expert_actions": np.int16,
}


def concatenate(batches: Sequence[EpisodeBatch]) -> EpisodeBatch:
    return EpisodeBatch(
        **{
            f.name: np.concatenate([getattr(b, f.name) for b in batches])
            for f in fields(EpisodeBatch)
        }
    )


class Slices(NamedTuple):
    """Single agents' slices of episodes, agents fastest; agents that are not there have none."""

    trajectories: Trajectories  # (M, T, ...)
    episode: np.ndarray  # (M,) number of the episode
    agent: np.ndarray  # (M,) which of its agents
    team_size: np.ndarray  # (M,) agents in the episode
    task: np.ndarray  # (M,) number of its task
    expert: np.ndarray  # (M, T) what the best behaviour policy would have done; -1 unknown


def slices(episodes: EpisodeBatch, bounds: tuple[float, float]) -> Slices:
    """Every agent's slice of every episode, until its death; `bounds` of the family's returns."""
    episode, agent = np.nonzero(episodes.agent_mask)
    T = episodes.actions.shape[1]
    steps = np.arange(T)
    done = steps == episodes.length[:, None] - 1
    full = completed(episodes.rewards.cumsum(-1), done, bounds)
    trajectories = Trajectories(
        observations=episodes.observations[episode, :T, agent],
        actions=episodes.actions[episode, :, agent].astype(np.int64),
        rewards=episodes.rewards[episode],
        done=done.astype(np.float32)[episode],
        completed=full.astype(np.float32)[episode],
        return_to_go=return_to_go(episodes.rewards)[episode],
        step_mask=(steps < episodes.length[:, None])[episode],
    )
    trajectories = cut_at_death(trajectories, alive_steps_in(episodes)[episode, agent])
    size = episodes.agent_mask.sum(1)
    expert = episodes.expert_actions[episode, :, agent].astype(np.int64)
    return Slices(trajectories, episode, agent, size[episode], episodes.task[episode], expert)


def require_expert(expert: np.ndarray) -> None:
    """Raises UserError where the best behaviour policy's actions are to be learned and unknown."""
    if (expert < 0).all():
        raise UserError(
            "the best behaviour policy's actions are to be learned, and this dataset has none: "
            "make it with `maicc collect` from a family that has an expert or behaviours"
        )


def write_episodes(
    path: str | Path,
    episodes: EpisodeBatch,
    spec: Spec,
    tasks: Sequence[Task],
    behaviours: Sequence[Behaviour],
) -> None:
    """Writes a dataset file, whole or not at all. Refuses what `EpisodeFile` would refuse."""
    raw = {name: np.asarray(getattr(episodes, name)) for name in FIELDS}
    header = {
        "spec": json.dumps(asdict(spec)),
        "tasks": json.dumps([task.to_json() for task in tasks]),
        "behaviours": json.dumps([asdict(behaviour) for behaviour in behaviours]),
    }
    check_episodes(str(path), raw, spec, len(tasks), len(behaviours))
    arrays = {name: raw[name].astype(kind, copy=False) for name, kind in FIELDS.items()}
    digest = hashlib.sha256()
    for name, value in header.items():
        digest.update(name.encode() + value.encode())
    for name, array in arrays.items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    with whole_file(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(header, schema=SCHEMA, fingerprint=digest.hexdigest())
        for name, array in arrays.items():
            chunks = (min(len(array), 64), *array.shape[1:])
            file.create_dataset(name, data=array, chunks=chunks, compression="lzf")


class EpisodeFile:
    """A dataset file, opened when first needed. `read` checks what it reads.

    Raises:
        UserError: the file is missing, damaged, of another schema or breaks it; names the file, the
            field and, where there is one, the episode.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @cached_property
    def _header(self) -> dict[str, Any]:
        if not self.path.exists():
            raise UserError(f"{self.path}: no such dataset; make it with `maicc collect`")
        try:
            with h5py.File(self.path, "r") as file:
                header = dict(file.attrs)
                header["shapes"] = {k: v.shape for k, v in file.items()}
        except OSError as error:
            raise UserError(
                f"{self.path}: not a readable HDF5 file, perhaps cut short ({error}); make it again"
            ) from None
        if "schema" not in header:
            raise UserError(
                f"{self.path}: no attribute 'schema', so this is not a maicc dataset; the authors' "
                "layout is read with `maicc collect --from-reference`"
            )
        if header["schema"] != SCHEMA:
            raise UserError(
                f"{self.path}: schema {header['schema']}, this version reads schema {SCHEMA}; make "
                "the dataset again or use the version that wrote it"
            )
        return header

    @cached_property
    def spec(self) -> Spec:
        return Spec.from_json(json.loads(self._header["spec"]))

    @cached_property
    def tasks(self) -> list[Task]:
        return [Task(**task) for task in json.loads(self._header["tasks"])]

    @cached_property
    def behaviours(self) -> list[Behaviour]:
        return [Behaviour(**behaviour) for behaviour in json.loads(self._header["behaviours"])]

    @property
    def fingerprint(self) -> str:
        return str(self._header["fingerprint"])

    def __len__(self) -> int:
        return int(self._header["shapes"]["length"][0])

    def require(self, spec: Spec) -> Spec:
        """The dataset's spec; bounds of the return may be known from the data alone.

        Raises:
            UserError: it was made for another family or another size.
        """
        bounds = {"return_min": self.spec.return_min, "return_max": self.spec.return_max}
        known = spec if spec.return_max is not None else replace(spec, **bounds)
        if self.spec != known:
            ours, theirs = asdict(known), asdict(self.spec)
            differ = ", ".join(
                f"{k} {theirs[k]} instead of {v}" for k, v in ours.items() if theirs[k] != v
            )
            raise UserError(f"{self.path}: made for another family or size: {differ}")
        return self.spec

    def expert_actions(self) -> np.ndarray:
        """(E, T, N) what the best behaviour policy would have done; -1 where it is unknown."""
        E, spec = len(self), self.spec
        with h5py.File(self.path, "r") as file:
            if "expert_actions" not in file:
                return np.full((E, spec.max_steps, spec.n_agents), -1)
            return file["expert_actions"][:].astype(np.int64)

    def read(self, index: Any = slice(None)) -> EpisodeBatch:
        """The episodes at `index` (a slice or sorted integers), checked."""
        spec, n_tasks, n_behaviours = self.spec, len(self.tasks), len(self.behaviours)
        try:
            with h5py.File(self.path, "r") as file:
                missing = {name for name in FIELDS if name not in file} - {"expert_actions"}
                if missing:
                    raise UserError(f"{self.path}: field {min(missing)} is missing; make it again")
                arrays = {name: file[name][index] for name in FIELDS if name in file}
        except OSError as error:
            raise UserError(f"{self.path}: damaged ({error}); make the dataset again") from None
        if "expert_actions" not in arrays:
            arrays["expert_actions"] = np.full_like(arrays["actions"], -1)
        check_episodes(str(self.path), arrays, spec, n_tasks, n_behaviours)
        wide = {
            name: arrays[name].astype(np.int64)
            for name in ("actions", "expert_actions", "length", "task", "behaviour")
        }
        return EpisodeBatch(**{**arrays, **wide})


def check_episodes(
    where: str, arrays: dict[str, np.ndarray], spec: Spec, n_tasks: int, n_behaviours: int
) -> None:
    """Raises UserError at the first field and episode that break the schema."""
    T, N, O, A = spec.max_steps, spec.n_agents, spec.observation_size, spec.n_actions  # noqa: E741
    E = len(arrays["length"])
    shapes = {
        "observations": (E, T + 1, N, O),
        "actions": (E, T, N),
        "action_mask": (E, T + 1, N, A),
        "agent_mask": (E, N),
        "rewards": (E, T),
        "individual_rewards": (E, T, N),
        "expert_actions": (E, T, N),
    }
    for name, array in arrays.items():
        expected = shapes.get(name, (E,))
        if array.shape != expected:
            raise UserError(f"{where}: field {name} has shape {array.shape}, expected {expected}")

    def refuse(name: str, bad: np.ndarray, what: str) -> None:
        episodes = np.flatnonzero(bad.reshape(E, -1).any(1))
        if len(episodes):
            raise UserError(f"{where}: field {name}, episode {episodes[0]}: {what}")

    for name in ("observations", "rewards", "individual_rewards"):
        refuse(name, ~np.isfinite(arrays[name]), "a value is NaN or infinite")
    refuse("agent_mask", ~arrays["agent_mask"].any(-1), "no agent is there")
    refuse("length", (arrays["length"] < 1) | (arrays["length"] > T), f"length outside 1 to {T}")
    actions = arrays["actions"]
    refuse("actions", (actions < 0) | (actions >= A), f"an action is outside 0 to {A - 1}")
    expert = arrays["expert_actions"]
    refuse("expert_actions", (expert < -1) | (expert >= A), f"an action is outside -1 to {A - 1}")
    refuse("task", (arrays["task"] < 0) | (arrays["task"] >= n_tasks), "unknown task")
    unknown = (arrays["behaviour"] < 0) | (arrays["behaviour"] >= n_behaviours)
    refuse("behaviour", unknown, "unknown behaviour")
    padded = np.arange(T) >= arrays["length"][:, None]
    refuse("rewards", padded & (arrays["rewards"] != 0), "a reward after the last step")


def spec_with_bounds(spec: Spec, path: str | Path) -> Spec:
    """The spec with return bounds, from the dataset at `path` where the family gives none.

    Raises:
        UserError: neither says.
    """
    if spec.return_max is not None:
        return spec
    dataset = EpisodeFile(path)
    if not dataset.path.exists():
        raise UserError(
            f"{spec.family} gives no return_bounds; make the dataset first, which tells them: "
            f"maicc collect {spec.family} --out {path}"
        )
    return dataset.require(spec)
