"""Import of a user's own episodes: arrays in an .npz or HDF5 file become a dataset.

The file holds E episodes of at most T steps. Agents, observation numbers and actions may be fewer
than the family's largest. Needed fields:

    observations  (E, T+1, N, O)          the last one follows the last action
    actions       (E, T, N)               integers from 0
    rewards       (E, T) or (E, T, N)     the team's, or each agent's
    length        (E,)                    steps played
    task          (E,)                    names of training tasks, or their numbers from 0

Fields that may be left out, and their defaults:

    action_mask   (E, T+1, N, A)          all actions are legal
    agent_mask    (E, N)                  all agents are there
    alive         (E, T, N)               up to an agent's last step with something to see or a
                                          choice to make
    terminated    (E,)                    episodes that ended before the family's max_steps
    behaviour     (E,)                    an integer for each policy that played; by default the
                                          quintiles of the return within each task
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from maicc.data.behaviour import with_bounds
from maicc.data.dataset import write_episodes
from maicc.data.episodes import EpisodeBatch, alive_by_sight, empty_episodes
from maicc.data.returns import share_of_maximum
from maicc.envs import TaskFamily
from maicc.envs.batch import team_rewards
from maicc.files import first_line, hdf5_to_read
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
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    family = bounded(family, episodes.returns, source)
    number, behaviours = behaviours_of(episodes, family.spec, arrays.get("behaviour"))
    episodes.behaviour[:] = number
    write_episodes(out, episodes, family.spec, family.training_tasks, behaviours)
    print(f"{out}: {len(number)} episodes of {len(family.training)} tasks from {source}")


def bounded(family: TaskFamily, returns: np.ndarray, source: Path) -> TaskFamily:
    """Gives a family bounds of its return where it states none, and checks returns (E,) by them.

    Raises:
        UserError: a return of the file `source` is outside the bounds.
    """
    family.require_within(returns, source)
    return with_bounds(family, returns) if family.return_bounds is None else family


def _check(arrays: Mapping[str, np.ndarray], family: TaskFamily) -> None:
    """Checks the arrays against each other and against the family."""
    for name in sorted({*NEEDED, *OPTIONAL} & set(arrays) - {"task"}):
        if arrays[name].dtype.kind not in "biuf":
            raise UserError(f"field {name} is of {arrays[name].dtype}, expected numbers")
    _check_sizes(arrays, family)
    _check_shapes(arrays, family.spec)
    _check_lengths(arrays)
    _check_agents(arrays)
    _check_actions(arrays, family.spec)
    _check_finite(arrays)


def _check_sizes(arrays: Mapping[str, np.ndarray], family: TaskFamily) -> None:
    T, N = arrays["actions"].shape[1:]
    O, s = arrays["observations"].shape[3], family.spec  # noqa: E741
    if s.max_steps < T or s.n_agents < N or s.observation_size < O:
        raise UserError(
            f"{T} steps, {N} agents and {O} observation numbers do not fit into {family.name}: "
            f"{s.max_steps}, {s.n_agents} and {s.observation_size}"
        )


def _check_shapes(arrays: Mapping[str, np.ndarray], spec: Spec) -> None:
    (E, T, N), O = arrays["actions"].shape, arrays["observations"].shape[3]  # noqa: E741
    allowed = {
        "observations": [(E, T + 1, N, O)],
        "rewards": [(E, T), (E, T, N)],
        "action_mask": [(E, T + 1, N, n) for n in range(1, spec.n_actions + 1)],
        "agent_mask": [(E, N)],
        "alive": [(E, T, N)],
        **{field: [(E,)] for field in ("length", "task", "terminated", "behaviour")},
    }
    for name, shapes in allowed.items():
        if name in arrays and arrays[name].shape not in shapes:
            expected = " or ".join(map(str, [shapes[0], shapes[-1]][: len(shapes)]))
            raise UserError(f"field {name} has shape {arrays[name].shape}, expected {expected}")


def _check_lengths(arrays: Mapping[str, np.ndarray]) -> None:
    actions, length = arrays["actions"], arrays["length"]
    T = actions.shape[1]
    if not len(actions):
        raise UserError("no episodes")
    _check_integers("length", length)
    if (length > T).any():
        raise UserError(f"field length has {length.max()}, and {T} steps are there")
    if (length < 1).any():
        raise UserError(f"field length has {length.min()}, expected 1 or more")
    if "behaviour" in arrays:
        _check_integers("behaviour", arrays["behaviour"])
    for name in sorted({"agent_mask", "terminated"} & set(arrays)):
        _check_binary(name, arrays[name])


def _check_integers(name: str, array: np.ndarray) -> None:
    if not (np.mod(array, 1) == 0).all():
        raise UserError(f"field {name} has numbers that are no integers")


def _check_binary(name: str, array: np.ndarray) -> None:
    if not np.isin(array, (0, 1)).all():
        raise UserError(f"field {name} has numbers that are neither 0 nor 1")


def _check_agents(arrays: Mapping[str, np.ndarray]) -> None:
    agent_mask = _agent_mask(arrays)
    if (agent_mask[:, 1:] > agent_mask[:, :-1]).any():
        raise UserError("field agent_mask: agents that are there must come first")
    if "alive" in arrays:
        _check_binary("alive", arrays["alive"][_played(arrays)])
    if "action_mask" in arrays:
        _check_binary("action_mask", arrays["action_mask"][_observed(arrays)])


def _check_actions(arrays: Mapping[str, np.ndarray], spec: Spec) -> None:
    actions = arrays["actions"]
    played = _played(arrays)
    _check_integers("actions", actions[played])
    if ((actions < 0) | (actions >= spec.n_actions))[played].any():
        raise UserError(f"field actions: an action is outside 0 to {spec.n_actions - 1}")
    if "action_mask" in arrays:
        legal = np.zeros((*actions.shape, spec.n_actions), bool)
        legal[..., : arrays["action_mask"].shape[3]] = arrays["action_mask"][:, :-1]
        taken = np.where(played, actions, 0).astype(np.int64)
        if not np.take_along_axis(legal, taken[..., None], 3)[..., 0][played].all():
            raise UserError("field actions has actions that its action_mask forbids")


def _check_finite(arrays: Mapping[str, np.ndarray]) -> None:
    """Checks what was observed and paid, up to the last step of each episode."""
    paid = _played(arrays)
    shown = {
        "observations": _observed(arrays)[..., None],
        "rewards": paid if arrays["rewards"].ndim == 3 else paid.any(2),
    }
    for name, there in shown.items():
        with np.errstate(over="ignore"):
            infinite = ~np.isfinite(arrays[name].astype(np.float32)) & there
        bad = infinite.reshape(len(infinite), -1).any(1)
        if bad.any():
            raise UserError(f"field {name}, episode {bad.argmax()}: a value is NaN or infinite")


def _agent_mask(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Agents that are there: (E, N) bool."""
    E, _, N = arrays["actions"].shape
    return arrays.get("agent_mask", np.ones((E, N))).astype(bool)


def _played(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Steps that were played by agents that are there: (E, T, N) bool."""
    steps = np.arange(arrays["actions"].shape[1])
    return (steps < arrays["length"][:, None])[..., None] & _agent_mask(arrays)[:, None]


def _observed(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Observations of agents that are there, the final one too: (E, T + 1, N) bool."""
    steps = np.arange(arrays["actions"].shape[1] + 1)
    return (steps <= arrays["length"][:, None])[..., None] & _agent_mask(arrays)[:, None]


def _episodes(arrays: Mapping[str, np.ndarray], family: TaskFamily) -> EpisodeBatch:
    """Makes episodes, padded to the family's sizes; nothing after the last step is looked at."""
    (E, T, N), s = arrays["actions"].shape, family.spec
    length = arrays["length"].astype(np.int64)
    agent_mask, played = _agent_mask(arrays), _played(arrays)
    observed = _observed(arrays)[..., None]
    masks = arrays.get("action_mask", np.ones((E, T + 1, N, s.n_actions)))
    terminated = arrays.get("terminated", length < s.max_steps).astype(bool)
    rewards, individual = _rewards(arrays, length, family)
    episodes = empty_episodes(s, E)
    for name, array in {
        "observations": np.where(observed, arrays["observations"], 0.0).astype(np.float32),
        "actions": np.where(played, arrays["actions"], 0),
        "action_mask": masks.astype(bool) & observed,
        "agent_mask": agent_mask,
        "rewards": rewards,
        "individual_rewards": individual,
    }.items():
        padded = getattr(episodes, name)
        padded[tuple(slice(size) for size in array.shape)] = array
    episodes.length[:] = length
    episodes.terminated[:] = terminated
    episodes.truncated[:] = ~terminated
    episodes.task[:] = _task_numbers(arrays["task"], family)
    episodes.seed[:] = -1
    if "alive" in arrays:
        episodes.alive[:, :T, :N] = arrays["alive"].astype(bool) & played
    else:
        episodes.alive[:] = alive_by_sight(
            observations=episodes.observations, action_mask=episodes.action_mask, length=length
        )
    return episodes


def _rewards(
    arrays: Mapping[str, np.ndarray], length: np.ndarray, family: TaskFamily
) -> tuple[np.ndarray, np.ndarray]:
    """Makes team rewards (E, T) and individual rewards (E, T, N) from either of them."""
    agent_mask, rewards = _agent_mask(arrays), arrays["rewards"]
    played = np.arange(arrays["actions"].shape[1]) < length[:, None]
    individual = rewards
    if rewards.ndim == 2:  # the team's: in equal parts, or the whole where that is paid to each
        share = agent_mask / (
            agent_mask.sum(1, keepdims=True) if family.team_reward == "sum" else 1
        )
        individual = rewards[..., None] * share[:, None]
    individual = np.where(_played(arrays), individual, 0.0).astype(np.float32)
    if rewards.ndim == 2:  # as given, to the last digit
        return np.where(played, rewards, 0.0).astype(np.float32), individual
    living = _living(arrays, played)
    team = team_rewards(individual, agent_mask[:, None], family.team_reward, living)
    unequal = ~np.isclose(individual, team[..., None], 1e-5, 1e-6) & living
    if family.team_reward == "shared" and unequal.any():
        raise UserError(
            f"field rewards, episode {unequal.any((1, 2)).argmax()}: team_reward=shared means that "
            "every agent is paid the same; give rewards (E, T) of the team, or use sum or mean"
        )
    return team, individual


def _living(arrays: Mapping[str, np.ndarray], played: np.ndarray) -> np.ndarray:
    """Agents that go on after a step, or all that are there where none does: (E, T, N) bool.

    Args:
        played: (E, T).
    """
    there = _played(arrays)
    alive = arrays.get("alive", there).astype(bool) & there
    later = np.concatenate([alive[:, 1:], alive[:, -1:]], 1)
    later = np.where(later.any(2, keepdims=True), later, True)  # at an episode's last step
    living = alive & later
    living = np.where(living.any(2, keepdims=True), living, there)
    return np.where(played[..., None], living, True)


def behaviours_of(
    episodes: EpisodeBatch, spec: Spec, given: np.ndarray | None = None
) -> tuple[np.ndarray, list[Behaviour]]:
    """Numbers the behaviour of each episode (E,), and lists the behaviours.

    Args:
        given: (E,) the behaviours as the data number them; quintiles of the return if None.
    """
    returns = episodes.returns
    if given is None:
        number, names = _quintiles(returns, episodes.task), [f"quintile {i + 1}" for i in range(5)]
    else:
        number = np.unique(given, return_inverse=True)[1]
        names = [f"given {b}" for b in np.unique(given)]
    behaviours = []
    for i, name in enumerate(names):
        of_behaviour = returns[number == i]
        reached = share_of_maximum(of_behaviour, spec.bounds) if len(of_behaviour) else 0.0
        behaviours.append(Behaviour(name, -1.0, reached, reached))
    return number, behaviours


def _quintiles(returns: np.ndarray, task: np.ndarray) -> np.ndarray:
    """Levels 0 to 4 (E,) of the returns (E,), within each task."""
    level = np.zeros(len(returns), np.int64)
    for t in np.unique(task):
        episodes = np.flatnonzero(task == t)
        rank = returns[episodes].argsort(kind="stable").argsort()
        level[episodes] = rank * 5 // len(episodes)
    return level


def _read(source: Path) -> dict[str, np.ndarray]:
    """Reads the file's fields, and checks that all are there with the right dimensions."""
    if not source.exists():
        raise UserError(f"{source}: no such file")
    arrays: dict[str, np.ndarray] = {}
    try:
        if source.suffix == ".npz":
            with np.load(source, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        else:
            with hdf5_to_read(source, "make it again") as file:
                arrays = {name: file[name][:] for name in {*NEEDED, *OPTIONAL} & set(file)}
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib, NumPy's header and its parser: each its own
        raise UserError(
            f"{source}: not a readable .npz or HDF5 file ({first_line(error)})"
        ) from None
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
    """Number (E,) of each episode's training task, given by name or by number."""
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
