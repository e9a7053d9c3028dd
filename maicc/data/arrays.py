"""Episodes that a user already has, as arrays in an .npz or HDF5 file, read into a dataset.

E episodes of at most T steps; agents, observation numbers and actions may be fewer than the
family's largest. Needed:

    observations  (E, T+1, N, O)          the last one follows the last action
    actions       (E, T, N)               integers from 0
    rewards       (E, T) or (E, T, N)     of the team, or of each agent
    length        (E,)                    steps played
    task          (E,)                    names of training tasks, or their numbers from 0

Not needed: action_mask (E, T+1, N, A), all legal by default; agent_mask (E, N), all there; alive
(E, T, N), by default up to an agent's last step with something to see or a choice to make;
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

from maicc.data.behaviour import with_bounds
from maicc.data.dataset import write_episodes
from maicc.data.episodes import EpisodeBatch, alive_by_sight, empty_episodes
from maicc.data.returns import share_of_maximum
from maicc.envs import TaskFamily
from maicc.envs.batch import team_rewards
from maicc.types import Behaviour, Spec, UserError

NEEDED = {"observations": (4,), "actions": (3,), "rewards": (2, 3), "length": (1,), "task": (1,)}
OPTIONAL = {
    "action_mask": (4,),
    "agent_mask": (2,),
    "alive": (3,),
    "terminated": (1,),
    "behaviour": (1,),
}


def convert_arrays(source: Path, family: TaskFamily, out: Path) -> None:
    """Writes the arrays in `source` as a dataset of `family` to `out`.

    Raises:
        UserError: names the file, the field, and what was expected.
    """
    arrays = _read(source)
    try:
        _check(arrays, family)
        episodes = _episodes(arrays, family)
        returns = episodes.returns
        if family.return_bounds is None:
            family = with_bounds(family, returns)
        low, high = family.return_bounds
        if returns.min() < low - 1e-3 or returns.max() > high + 1e-3:
            raise UserError(
                f"returns from {returns.min():.4g} to {returns.max():.4g}, outside the family's "
                f"return_bounds {low:g} to {high:g}"
            )
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    number, behaviours = behaviours_of(episodes, family.spec, arrays.get("behaviour"))
    episodes.behaviour[:] = number
    write_episodes(out, episodes, family.spec, family.training_tasks, behaviours)
    print(f"{out}: {len(number)} episodes of {len(family.training)} tasks from {source}")


def _check(arrays: Mapping[str, np.ndarray], family: TaskFamily) -> None:
    E, T, N = arrays["actions"].shape
    O, s = arrays["observations"].shape[3], family.spec  # noqa: E741
    if s.max_steps < T or s.n_agents < N or s.observation_size < O:
        raise UserError(
            f"{T} steps, {N} agents and {O} observation numbers do not fit into {family.name}: "
            f"{s.max_steps}, {s.n_agents} and {s.observation_size}"
        )
    for name, shapes in {
        "observations": [(E, T + 1, N, O)],
        "rewards": [(E, T), (E, T, N)],
        "action_mask": [(E, T + 1, N, n) for n in range(1, s.n_actions + 1)],
        "agent_mask": [(E, N)],
        "alive": [(E, T, N)],
        **{field: [(E,)] for field in ("length", "task", "terminated", "behaviour")},
    }.items():
        if name in arrays and arrays[name].shape not in shapes:
            expected = " or ".join(map(str, [shapes[0], shapes[-1]][: len(shapes)]))
            raise UserError(f"field {name} has shape {arrays[name].shape}, expected {expected}")
    if not E:
        raise UserError("no episodes")
    actions, length = arrays["actions"], arrays["length"]
    if not np.array_equal(actions, actions.astype(np.int64)):
        raise UserError("field actions has numbers that are no integers")
    if (length > T).any():
        raise UserError(f"field length has {length.max()}, and {T} steps are there")
    there = arrays.get("agent_mask", np.ones((E, N))).astype(bool)
    if (there[:, 1:] > there[:, :-1]).any():
        raise UserError("field agent_mask: agents that are there must come first")
    played = (np.arange(T) < length[:, None])[..., None] & there[:, None]
    if ((actions < 0) | (actions >= s.n_actions))[played].any():
        raise UserError(f"field actions: an action is outside 0 to {s.n_actions - 1}")
    if "action_mask" in arrays:
        legal = np.zeros((E, T, N, s.n_actions), bool)
        legal[..., : arrays["action_mask"].shape[3]] = arrays["action_mask"][:, :-1]
        taken = np.where(played, actions, 0).astype(np.int64)
        if not np.take_along_axis(legal, taken[..., None], 3)[..., 0][played].all():
            raise UserError("field actions has actions that its action_mask forbids")


def _episodes(arrays: Mapping[str, np.ndarray], family: TaskFamily) -> EpisodeBatch:
    """Makes episodes, padded to the family's sizes; nothing after the last step is looked at."""
    (E, T, N), s = arrays["actions"].shape, family.spec
    length = arrays["length"].astype(np.int64)
    played, known = (np.arange(n) < (length + n - T)[:, None] for n in (T, T + 1))
    there = arrays.get("agent_mask", np.ones((E, N))).astype(bool)
    legal = arrays.get("action_mask", np.ones((E, T + 1, N, s.n_actions))).astype(bool)
    individual = arrays["rewards"]
    if individual.ndim == 2:  # of the team: in equal parts, or the whole where that is paid to each
        share = there / (there.sum(1, keepdims=True) if family.team_reward == "sum" else 1)
        individual = individual[..., None] * share[:, None]
    individual = np.where(played[..., None] & there[:, None], individual, 0.0).astype(np.float32)
    rewards = team_rewards(individual, there[:, None], family.team_reward)
    if arrays["rewards"].ndim == 2:  # as given, to the last digit
        rewards = np.where(played, arrays["rewards"], 0.0).astype(np.float32)
    actions = np.where(played[..., None] & there[:, None], arrays["actions"], 0)
    terminated = arrays.get("terminated", length < s.max_steps).astype(bool)
    observations = np.where(known[..., None, None], arrays["observations"], 0.0).astype(np.float32)
    episodes = empty_episodes(s, E)
    for name, given in {
        "observations": observations,
        "actions": actions,
        "action_mask": legal,
        "agent_mask": there,
        "rewards": rewards,
        "individual_rewards": individual,
    }.items():
        padded = getattr(episodes, name)
        padded[tuple(slice(size) for size in given.shape)] = given
    episodes.agent_mask[:, there.shape[1] :] = False
    episodes.length[:] = length
    episodes.terminated[:] = terminated
    episodes.truncated[:] = ~terminated
    episodes.task[:] = _task_numbers(arrays["task"], family)
    episodes.seed[:] = -1
    if "alive" in arrays:
        episodes.alive[:, :T, :N] = (
            arrays["alive"].astype(bool) & played[..., None] & there[:, None]
        )
    else:
        episodes.alive[:] = alive_by_sight(
            observations=episodes.observations, action_mask=episodes.action_mask, length=length
        )
    return episodes


def behaviours_of(
    episodes: EpisodeBatch, spec: Spec, given: np.ndarray | None = None
) -> tuple[np.ndarray, list[Behaviour]]:
    """Who made each episode, and their list; quintiles of the return where nobody says."""
    returns = episodes.returns
    if given is None:
        number, names = _quintiles(returns, episodes.task), [f"quintile {i + 1}" for i in range(5)]
    else:
        number = np.unique(given, return_inverse=True)[1]
        names = [f"given {b}" for b in np.unique(given)]
    behaviours = []
    for i, name in enumerate(names):
        mine = returns[number == i]
        reached = share_of_maximum(mine, spec.bounds) if len(mine) else 0.0
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
    for name, dimensions in {**NEEDED, **OPTIONAL}.items():
        if name in NEEDED and name not in arrays:
            raise UserError(f"{source}: field {name} is missing; needed: {', '.join(NEEDED)}")
        if name in arrays and arrays[name].ndim not in dimensions:
            wanted = " or ".join(map(str, dimensions))
            raise UserError(
                f"{source}: field {name} has {arrays[name].ndim} dimensions, expected {wanted}"
            )
    return arrays


def _task_numbers(tasks: np.ndarray, family: TaskFamily) -> np.ndarray:
    names: Mapping[Any, int] = {name: i for i, name in enumerate(family.training)}
    if tasks.dtype.kind in "iu":
        names = {i: i for i in range(len(names))}
    listed = [t.decode() if isinstance(t, bytes) else t for t in tasks.tolist()]
    unknown = sorted({str(t) for t in listed if t not in names})
    if unknown:
        raise UserError(
            f"field task has {unknown[0]!r}, which is no training task of {family.name}: "
            f"{', '.join(map(str, names))}"
        )
    return np.array([names[t] for t in listed])
