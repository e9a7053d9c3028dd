"""Types that packages hand to one another. No logic, and no import of torch.

Dimensions: B batch, T steps, N agents, O observation, A actions, E episodes, Q queries,
K retrieved trajectories, D embedding width, M trajectories (one agent's slice of one episode).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from operator import index
from typing import Any, NamedTuple


class UserError(ValueError):
    """Something the user can put right. Commands print its text, no traceback, and exit 2."""


class OutsideError(UserError):
    """A refusal whose cause lies outside the family; what was played before it is sound."""


@dataclass(frozen=True)
class Task:
    """One task of a family, in plain JSON, so that it can be stored and rebuilt."""

    family: str
    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values, from which `Task(**values)` makes the task again."""
        return {"family": self.family, "name": self.name, "parameters": dict(self.parameters)}


@dataclass(frozen=True)
class ObsLayout:
    """Places in an observation that describe the agent itself, its allies and its enemies.

    Allies and enemies that an agent does not see are all zero. Enemy j is attacked by action
    `attack` + j; attacks are the last actions. In agents that heal, that action heals ally j.

    Args:
        own: First number, and how many.
        allies: First number, how many allies, numbers of each.
        enemies: First number, how many enemies, numbers of each.
        attack: The action that attacks enemy 0.
        heals: Number in the observation that is above 0 in agents that heal; None where nobody
            heals.
    """

    own: tuple[int, int]
    allies: tuple[int, int, int]
    enemies: tuple[int, int, int]
    attack: int
    heals: int | None = None

    def __post_init__(self) -> None:
        for group in ("own", "allies", "enemies"):  # JSON has lists, NumPy integers of its own
            object.__setattr__(self, group, tuple(map(index, getattr(self, group))))
        object.__setattr__(self, "attack", index(self.attack))
        object.__setattr__(self, "heals", None if self.heals is None else index(self.heals))


@dataclass(frozen=True)
class Spec:
    """Largest sizes of a task family and the bounds of its return, as a model needs them.

    Args:
        hidden: Count of the numbers that tell the hidden part of a task; 0 if it is not told.
    """

    family: str
    n_agents: int
    observation_size: int
    n_actions: int
    max_steps: int
    return_min: float | None  # None until a dataset tells
    return_max: float | None
    layout: ObsLayout | None = None
    hidden: int = field(default=0, compare=False)  # files of before version 0.2 do not have it

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest return.

        Raises:
            UserError: they are not known yet, neither from the family nor from a dataset.
        """
        if self.return_min is None or self.return_max is None:
            raise UserError(f"{self.family}: the bounds of the return are not known yet")
        return self.return_min, self.return_max

    def differences(self, other: Spec) -> str:
        """Lists what another spec has otherwise, as "n_agents 3 instead of 2"."""
        ours, theirs = asdict(self), asdict(other)
        return ", ".join(
            f"{k} {theirs[k]} instead of {v}" for k, v in ours.items() if theirs[k] != v
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Spec:
        """Makes a spec of plain values, as `dataclasses.asdict` gives them.

        Raises:
            TypeError: names are missing or unknown.
            ValueError: a bound is not finite.
        """
        layout = values.get("layout")
        for bound in (values.get("return_min"), values.get("return_max")):
            if bound is not None and not isfinite(bound):
                raise ValueError(f"the return's bound {bound} is not finite")
        return cls(**{**values, "layout": ObsLayout(**layout) if layout else None})


@dataclass(frozen=True)
class Behaviour:
    """Policy that produced an episode; `target` and `reached` are shares of the maximum."""

    name: str
    random_rate: float
    target: float
    reached: float


class Trajectories(NamedTuple):
    """Slices of single agents; the leading dimensions vary. NumPy arrays or torch tensors.

    A stored slice is a context candidate; a running one is the current trajectory.
    """

    observations: Any  # (..., T, O) float32
    actions: Any  # (..., T) int64
    rewards: Any  # (..., T) float32, of the team
    done: Any  # (..., T) float32, 1 at the step that ended the episode
    completed: Any  # (..., T) float32, 1 once the return is in the top 5 % of the range
    return_to_go: Any  # (..., T) float32
    step_mask: Any  # (..., T) bool, True at steps that were played

    @classmethod
    def blank(cls, shape: tuple[int, ...], observation_size: int) -> Trajectories:
        """Makes arrays (*shape, ...) of zeros; the last dimension of `shape` is the steps."""
        import numpy as np

        observations = np.zeros((*shape, observation_size), np.float32)
        actions, step_mask = np.zeros(shape, np.int64), np.zeros(shape, bool)
        a, b, c, d = (np.zeros(shape, np.float32) for _ in range(4))
        return cls(observations, actions, a, b, c, d, step_mask)

    def each(self, change: Callable[[Any], Any]) -> Trajectories:
        """Applies a function to each array."""
        return Trajectories(*map(change, self))

    def take(self, index: Any) -> Trajectories:
        """Selects by an index of the leading dimensions, such as `np.s_[:, 3]`."""
        return self.each(lambda part: part[index])


class Candidates(NamedTuple):
    """Trajectories that a memory offers for each query, most similar first. NumPy arrays."""

    item: Any  # (Q, C) int64, number of the trajectory in its memory; -1 where there is none
    similarity: Any  # (Q, C) float32, cosine


class Retrieval(NamedTuple):
    """Trajectories that each query was given. NumPy arrays."""

    item: Any  # (Q, K) int64, number of the trajectory in its memory
    offline: Any  # (Q,) bool, the memory that was asked
    similarity: Any  # (Q, K) float32
    score: Any  # (Q, K) float32
