"""Whole episodes of a team, and the one table of their fields.

The table is `EpisodeBatch`. Empty batches, joined batches, the content of a dataset file and its
checks all follow from it. Training needs more of an episode: its end, its completion, its
returns-to-go, and how long each agent lives. `outcomes` works these out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

import numpy as np
from numpy.typing import ArrayLike

from maicc.data.alive import alive_up_to_last
from maicc.data.returns import completed, return_to_go
from maicc.files import RowsOnDisk
from maicc.types import Spec, UserError


class Schema(NamedTuple):
    """Description of one field.

    Letters: E episodes, T steps (`max_steps`), T+ the step after the last one, N agents, O numbers
    of an observation, A actions.
    """

    dimensions: str
    kind: type  # in memory
    stored: type | None = None  # in a file, where that is another
    empty: int = 0  # where nothing was played
    needed: bool = True  # False: a file may lack it, and `fill_missing` knows what it means


@dataclass(frozen=True)
class EpisodeBatch:
    """Episodes, padded to the longest one allowed, the largest team, observation and action set."""

    # the last observation follows the last action
    observations: Annotated[np.ndarray, Schema("E T+ N O", np.float32)]
    actions: Annotated[np.ndarray, Schema("E T N", np.int64, np.int16)]
    action_mask: Annotated[np.ndarray, Schema("E T+ N A", np.bool_)]
    # False where a smaller team is padded
    agent_mask: Annotated[np.ndarray, Schema("E N", np.bool_)]
    # whether an agent is there and takes part in the step: neither dead nor gone
    alive: Annotated[np.ndarray, Schema("E T N", np.bool_, needed=False)]
    # of the team
    rewards: Annotated[np.ndarray, Schema("E T", np.float32)]
    # as the environment paid them; never shown to agents
    individual_rewards: Annotated[np.ndarray, Schema("E T N", np.float32)]
    # steps played
    length: Annotated[np.ndarray, Schema("E", np.int64, np.int32)]
    # ended by the task, or by the time limit
    terminated: Annotated[np.ndarray, Schema("E", np.bool_)]
    truncated: Annotated[np.ndarray, Schema("E", np.bool_)]
    # numbers in the lists of tasks and of behaviours that belong to the episodes
    task: Annotated[np.ndarray, Schema("E", np.int64, np.int32)]
    behaviour: Annotated[np.ndarray, Schema("E", np.int64, np.int32)]
    # of the environment's reset; -1 unknown
    seed: Annotated[np.ndarray, Schema("E", np.int64)]
    # actions of the best behaviour policy; -1 unknown
    expert_actions: Annotated[np.ndarray, Schema("E T N", np.int64, np.int16, -1, needed=False)]

    def __len__(self) -> int:
        return len(self.length)

    @property
    def played(self) -> np.ndarray:
        """Steps that were played: (E, T) bool."""
        return np.arange(self.actions.shape[1]) < self.length[:, None]

    @property
    def returns(self) -> np.ndarray:
        """Team returns: (E,)."""
        return self.rewards.sum(1)

    def take(self, index: Any) -> EpisodeBatch:
        """Selects episodes by their first dimension."""
        return EpisodeBatch(**{name: getattr(self, name)[index] for name in FIELDS})


FIELDS: Mapping[str, Schema] = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(EpisodeBatch, include_extras=True).items()
}


def shapes(spec: Spec, episodes: int) -> dict[str, tuple[int, ...]]:
    """Shape of each field, for a number of episodes of a family."""
    size = {
        "E": episodes,
        "T": spec.max_steps,
        "T+": spec.max_steps + 1,
        "N": spec.n_agents,
        "O": spec.observation_size,
        "A": spec.n_actions,
    }
    return {
        name: tuple(size[letter] for letter in schema.dimensions.split())
        for name, schema in FIELDS.items()
    }


def empty_episodes(spec: Spec, episodes: int) -> EpisodeBatch:
    """Makes episodes in which nothing has been played, to be filled in."""
    return EpisodeBatch(
        **{
            name: np.full(shape, FIELDS[name].empty, FIELDS[name].kind)
            for name, shape in shapes(spec, episodes).items()
        }
    )


def concatenate(batches: Sequence[EpisodeBatch]) -> EpisodeBatch:
    """Joins batches of one family, one behind the other."""
    return EpisodeBatch(
        **{name: np.concatenate([getattr(batch, name) for batch in batches]) for name in FIELDS}
    )


def join(
    parts: Iterable[Mapping[str, np.ndarray]], total: int, folder: Path | None = None
) -> EpisodeBatch:
    """Joins parts of `total` episodes, which are read one after the other: none is held twice.

    Args:
        folder: Folder for files without a name, to which the two largest fields are written. They
            are read from there when they are asked for, as zeros behind the end of an episode, and
            are read-only. None keeps all in memory.
    """
    whole: dict[str, np.ndarray] = {}
    on_disk: dict[str, RowsOnDisk] = {}
    first = 0
    for part in parts:
        for name in FIELDS:
            new = part[name]
            if folder is not None and name in _LARGE:
                if name not in on_disk:
                    on_disk[name] = RowsOnDisk(folder, (total, *new.shape[1:]), new.dtype)
                on_disk[name].write(first, new, part["length"] + 1)
                continue
            if name not in whole:
                whole[name] = np.empty((total, *new.shape[1:]), new.dtype)
            whole[name][first : first + len(new)] = new
        first += len(part["length"])
    return EpisodeBatch(**whole, **{name: rows.array() for name, rows in on_disk.items()})


_LARGE = ("observations", "action_mask")
# NumPy's kinds that a field of a kind may be stored as
_KINDS: Mapping[type, str] = {np.float32: "f", np.int64: "iu", np.bool_: "b"}


def check_episodes(
    where: str,
    arrays: Mapping[str, np.ndarray],
    spec: Spec,
    n_tasks: int,
    n_behaviours: int,
    first: int = 0,
) -> None:
    """Checks fields, as they are stored, against the schema.

    Args:
        where: Name of the file.
        first: Number of the first of these episodes.

    Raises:
        UserError: the first field and episode that break it.
    """
    T, A, E = spec.max_steps, spec.n_actions, len(np.atleast_1d(arrays["length"]))
    if not E:
        raise UserError(f"{where}: there are no episodes")
    expected = shapes(spec, E)
    for name, array in arrays.items():
        if array.dtype.kind not in _KINDS[FIELDS[name].kind]:
            raise UserError(
                f"{where}: field {name} is of {array.dtype}, expected {FIELDS[name].kind.__name__}"
            )
        if array.shape != expected[name]:
            raise UserError(
                f"{where}: field {name} has shape {array.shape}, expected {expected[name]}"
            )

    def refuse(name: str, bad: ArrayLike, what: str) -> None:
        episodes = np.flatnonzero(np.reshape(bad, (E, -1)).any(1))
        if len(episodes):
            raise UserError(f"{where}: field {name}, episode {first + episodes[0]}: {what}")

    for name, array in arrays.items():
        if FIELDS[name].kind is np.float32:
            with np.errstate(over="ignore"):
                refuse(name, ~np.isfinite(array.astype(np.float32)), "a value is NaN or infinite")
    refuse("agent_mask", ~arrays["agent_mask"].any(-1), "no agent is there")
    refuse("length", (arrays["length"] < 1) | (arrays["length"] > T), f"length outside 1 to {T}")
    for name, lowest in (("actions", 0), ("expert_actions", -1)):
        if name in arrays:
            bad = (arrays[name] < lowest) | (arrays[name] >= A)
            refuse(name, bad, f"an action is outside {lowest} to {A - 1}")
    for name, count in (("task", n_tasks), ("behaviour", n_behaviours)):
        refuse(name, (arrays[name] < 0) | (arrays[name] >= count), f"unknown {name}")
    padded = np.arange(T) >= arrays["length"][:, None]
    refuse("rewards", padded & (arrays["rewards"] != 0), "a reward after the last step")


def fill_missing(arrays: Mapping[str, np.ndarray]) -> EpisodeBatch:
    """Makes episodes of stored fields; older files lack some, which are filled in."""
    filled: dict[str, np.ndarray] = {
        name: np.asarray(array).astype(FIELDS[name].kind, copy=False)
        for name, array in arrays.items()
    }
    if "expert_actions" not in filled:
        filled["expert_actions"] = np.full_like(filled["actions"], -1)
    if "alive" not in filled:
        filled["alive"] = alive_by_sight(
            filled["observations"], filled["action_mask"], filled["length"]
        )
    return EpisodeBatch(**filled)


def alive_by_sight(
    observations: np.ndarray, action_mask: np.ndarray, length: np.ndarray
) -> np.ndarray:
    """Guesses which agents are alive, for data that do not say so: (E, T, N) bool.

    An agent counts as alive up to its last step with something to see or a choice to make, as the
    dead of battles see nothing and have one legal action.

    Args:
        observations: (E, T+1, N, O).
        action_mask: (E, T+1, N, A).
        length: (E,).
    """
    T = observations.shape[1] - 1
    played = (np.arange(T) < length[:, None])[..., None]
    busy = (observations[:, :-1] != 0).any(-1) | (action_mask[:, :-1].sum(-1) > 1)
    return _each_agent_up_to_last(played & busy)


def _each_agent_up_to_last(alive: np.ndarray) -> np.ndarray:
    """Marks the steps up to each agent's last one: (E, T, N) -> (E, T, N)."""
    return alive_up_to_last(alive.swapaxes(1, 2)).swapaxes(1, 2)


class Outcomes(NamedTuple):
    """Facts that follow from episodes' rewards, lengths and lives."""

    step_mask: np.ndarray  # (E, T) bool, steps that were played
    done: np.ndarray  # (E, T) float32, 1 at the step that ended the episode
    completed: np.ndarray  # (E, T) float32, 1 once the return is in the top 5 % of the range
    return_to_go: np.ndarray  # (E, T) float32
    alive: np.ndarray  # (E, T, N) bool, an agent's steps up to its last one; the first is one


def outcomes(episodes: EpisodeBatch, bounds: tuple[float, float]) -> Outcomes:
    """Works out what training needs of episodes.

    Args:
        bounds: Lowest and highest return of the family.
    """
    done = np.arange(episodes.actions.shape[1]) == episodes.length[:, None] - 1
    at_maximum = completed(episodes.rewards.cumsum(-1), done, bounds)
    played = episodes.played
    return Outcomes(
        step_mask=played,
        done=done.astype(np.float32),
        completed=at_maximum.astype(np.float32),
        return_to_go=return_to_go(episodes.rewards),
        alive=_each_agent_up_to_last(episodes.alive & played[..., None]),
    )
