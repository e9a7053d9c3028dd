"""Episodes that a user already has, as arrays in an .npz or HDF5 file, read into a dataset.

E episodes of at most T steps; agents, observation numbers and actions may be fewer than the
family's largest. Needed:

    observations  (E, T+1, N, O)          the last one follows the last action
    actions       (E, T, N)               integers from 0
    rewards       (E, T) or (E, T, N)     of the team, or of each agent
    length        (E,)                    steps played
    task          (E,)                    names of training tasks, or their numbers from 0

Not needed: action_mask (E, T+1, N, A), all legal by default; agent_mask (E, N), all there;
terminated (E,), by default what ended before the family's max_steps; behaviour (E,), integers from
the worst policy to the best, by default the quintiles of the return within each task.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import h5py
import numpy as np

from maicc.behaviour import with_bounds
from maicc.dataset import write_episodes
from maicc.envs import TaskFamily
from maicc.types import Behaviour, EpisodeBatch, Spec, UserError

NEEDED = {"observations": 4, "actions": 3, "rewards": (2, 3), "length": 1, "task": 1}


def convert_arrays(source: Path, family: TaskFamily, out: Path) -> None:
    """Writes the arrays in `source` as a dataset of `family` to `out`.

    Raises:
        UserError: names the file, the field, and what was expected.
    """
    arrays = _read(source)
    E, T, N = arrays["actions"].shape
    s = family.spec
    O = arrays["observations"].shape[3]  # noqa: E741
    if s.max_steps < T or s.n_agents < N or s.observation_size < O:
        raise UserError(
            f"{source}: {T} steps, {N} agents and {O} observation numbers do not fit into "
            f"{family.name}: {s.max_steps}, {s.n_agents} and {s.observation_size}"
        )
    for name, shape in (
        ("observations", (E, T + 1, N, O)), ("length", (E,)), ("task", (E,)),
        ("action_mask", (E, T + 1, N, min(arrays["action_mask"].shape[3], s.n_actions))
         if "action_mask" in arrays else None),
        ("agent_mask", (E, N)), ("terminated", (E,)), ("behaviour", (E,)),
    ):  # fmt: skip
        if name in arrays and arrays[name].shape != shape:
            raise UserError(
                f"{source}: field {name} has shape {arrays[name].shape}, expected {shape}"
            )
    if not E:
        raise UserError(f"{source}: no episodes")
    if not np.array_equal(arrays["actions"], arrays["actions"].astype(np.int64)):
        raise UserError(f"{source}: field actions has numbers that are no integers")
    if arrays["actions"].min() < 0 or arrays["actions"].max() >= s.n_actions:
        raise UserError(f"{source}: field actions: an action is outside 0 to {s.n_actions - 1}")
    length = arrays["length"].astype(np.int64)
    if (length > T).any():
        raise UserError(f"{source}: field length has {length.max()}, and {T} steps are there")
    played, known = (np.arange(n) < (length + n - T)[:, None] for n in (T, T + 1))
    there = arrays.get("agent_mask", np.ones((E, N), bool)).astype(bool)
    if (there[:, 1:] > there[:, :-1]).any():
        raise UserError(f"{source}: field agent_mask: agents that are there must come first")
    legal = arrays.get("action_mask", np.ones((E, T + 1, N, s.n_actions), bool)).astype(bool)
    individual = _individual(arrays["rewards"], there, family, source, (E, T, N))
    individual = np.where(played[..., None], individual, 0.0)
    if arrays["rewards"].ndim == 2:
        rewards = np.where(played, arrays["rewards"], 0.0)
    else:
        total = individual.sum(2)
        mean = total / there.sum(1, keepdims=True)
        rewards = {"sum": total, "mean": mean, "shared": individual[..., 0]}[family.team_reward]
    terminated = arrays.get("terminated", length < s.max_steps).astype(bool)
    T, N = s.max_steps, s.n_agents  # what is padded to
    episodes = EpisodeBatch(
        observations=_padded(
            np.where(known[:, :, None, None], arrays["observations"], 0.0).astype(np.float32),
            (E, T + 1, N, s.observation_size),
        ),
        actions=_padded(arrays["actions"] * played[..., None], (E, T, N)),
        action_mask=_padded(legal, (E, T + 1, N, s.n_actions)),
        agent_mask=_padded(there, (E, N)),
        rewards=_padded(rewards.astype(np.float32), (E, T)),
        individual_rewards=_padded(individual, (E, T, N)),
        length=length,
        terminated=terminated,
        truncated=~terminated,
        task=_task_numbers(arrays["task"], family, source),
        behaviour=np.zeros(E, np.int64),
        seed=np.full(E, -1),
    )
    acts = (np.arange(s.max_steps) < length[:, None])[..., None] & episodes.agent_mask[:, None]
    chosen = np.take_along_axis(episodes.action_mask[:, :-1], episodes.actions[..., None], 3)
    if not chosen[..., 0][acts].all():
        raise UserError(f"{source}: field actions has actions that its action_mask forbids")
    returns = episodes.rewards.sum(1)
    if family.return_bounds is None:
        family = with_bounds(family, returns)
    low, high = family.return_bounds
    if returns.min() < low - 1e-3 or returns.max() > high + 1e-3:
        raise UserError(
            f"{source}: returns from {returns.min():.4g} to {returns.max():.4g}, outside the "
            f"family's return_bounds {low:g} to {high:g}"
        )
    number, behaviours = behaviours_of(episodes, family.spec, arrays.get("behaviour"))
    episodes.behaviour[:] = number
    write_episodes(out, episodes, family.spec, family.training_tasks, behaviours)
    print(f"{out}: {E} episodes of {len(family.training)} tasks from {source}")


def behaviours_of(
    episodes: EpisodeBatch, spec: Spec, given: np.ndarray | None = None
) -> tuple[np.ndarray, list[Behaviour]]:
    """Who made each episode, and their list; quintiles of the return where nobody says."""
    returns = episodes.rewards.sum(1)
    if given is None:
        number, names = _quintiles(returns, episodes.task), [f"quintile {i + 1}" for i in range(5)]
    else:
        number = np.unique(given, return_inverse=True)[1]
        names = [f"given {b}" for b in np.unique(given)]
    behaviours = []
    for i, name in enumerate(names):
        mine = returns[number == i]
        scale = spec.return_max - spec.return_min
        reached = float((mine.mean() - spec.return_min) / scale) if len(mine) else 0.0
        behaviours.append(Behaviour(name, -1.0, reached, reached))
    return number, behaviours


def _quintiles(returns: np.ndarray, task: np.ndarray) -> np.ndarray:
    level = np.zeros(len(returns), np.int64)
    for t in np.unique(task):
        mine = np.flatnonzero(task == t)
        rank = returns[mine].argsort(kind="stable").argsort()
        level[mine] = rank * 5 // len(mine)
    return level


def _read(source: Path) -> dict[str, np.ndarray]:
    if not source.exists():
        raise UserError(f"{source}: no such file")
    arrays: dict[str, np.ndarray] = {}
    try:
        if source.suffix == ".npz":
            with np.load(source, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        else:
            with h5py.File(source, "r") as file:
                arrays = {name: file[name][:] for name in file}
    except (OSError, ValueError, BadZipFile) as error:
        raise UserError(f"{source}: not a readable .npz or HDF5 file ({error})") from None
    for name, dimensions in NEEDED.items():
        if name not in arrays:
            raise UserError(f"{source}: field {name} is missing; needed: {', '.join(NEEDED)}")
        if arrays[name].ndim not in np.atleast_1d(dimensions):
            raise UserError(
                f"{source}: field {name} has {arrays[name].ndim} dimensions, expected {dimensions}"
            )
    return arrays


def _individual(
    rewards: np.ndarray, there: np.ndarray, family: TaskFamily, source: Path, shape: tuple
) -> np.ndarray:
    """Each agent's rewards; equal parts of the team's where only that is known."""
    if rewards.shape == shape:
        return rewards.astype(np.float32)
    if rewards.shape != shape[:2]:
        raise UserError(
            f"{source}: field rewards has shape {rewards.shape}, expected {shape[:2]} or {shape}"
        )
    share = there / (there.sum(1, keepdims=True) if family.team_reward == "sum" else 1)
    return (rewards[..., None] * share[:, None]).astype(np.float32)


def _task_numbers(tasks: np.ndarray, family: TaskFamily, source: Path) -> np.ndarray:
    names: Mapping[Any, int] = {name: i for i, name in enumerate(family.training)}
    if tasks.dtype.kind in "iu":
        names = {i: i for i in range(len(names))}
    listed = [t.decode() if isinstance(t, bytes) else t for t in tasks.tolist()]
    unknown = sorted({str(t) for t in listed if t not in names})
    if unknown:
        raise UserError(
            f"{source}: field task has {unknown[0]!r}, which is no training task of {family.name}: "
            f"{', '.join(map(str, names))}"
        )
    return np.array([names[t] for t in listed])


def _padded(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    padded = np.zeros(shape, array.dtype)
    padded[tuple(slice(0, n) for n in array.shape)] = array
    return padded
