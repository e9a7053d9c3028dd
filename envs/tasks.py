"""A task family: tasks to train on, tasks to be tested on, and how to play them."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Literal, get_args

import numpy as np
from pettingzoo import ParallelEnv

from maicc.envs.adapters import as_parallel
from maicc.envs.spaces import largest_sizes
from maicc.types import ObsLayout, Spec, Task, UserError

ENTRY_POINTS = "maicc.task_families"
_BUILT_IN = {
    **{name: f"maicc.envs.games.lbf:{name}" for name in ("lbf_7x7", "lbf_8x8", "lbf_9x9")},
    **{
        name: f"maicc.envs.games.smax:{name}"
        for name in ("smax_protoss", "smax_terran", "smax_zerg", "smax_all")
    },
    **{
        name: f"maicc.envs.games.smac:{name}"
        for name in ("smac_protoss", "smac_terran", "smac_zerg", "smac_all")
    },
}

# An expert sees the whole environment: it makes data, it is not an agent of ours.
Expert = Callable[[ParallelEnv, np.random.Generator], Mapping[str, int]]
TeamReward = Literal["sum", "mean", "shared"]
Policy = Callable[[np.ndarray, np.ndarray, str, np.random.Generator], int]


@dataclass(frozen=True)
class TaskFamily:
    """Tasks that share a step limit and the bounds of the team return.

    Teams, observations and action sets may differ in size; smaller ones are padded.

    Args:
        name: The name users type.
        make: `make(**task.parameters)` gives a fresh environment: a PettingZoo `ParallelEnv` or
            parallelizable `AECEnv`, or a Gymnasium one with a Tuple of spaces.
        training: Parameters of each training task, by task name; a list names them itself. Plain
            JSON. `sample_tasks` draws both kinds.
        held_out: Parameters of the tasks that are never trained on, likewise.
        max_steps: An episode has at most this many steps.
        return_bounds: Lowest and highest possible team return; where it is not given, those of the
            dataset.
        expert: `expert(env, rng)` gives the best action known for each agent that takes part.
        behaviours: Policies that make the dataset, beside the expert if there is one:
            `policy(observation, action_mask, agent, rng)` gives one agent's action from what that
            agent sees, padded to the largest sizes. One, or a list from worst to best. An only one
            without an expert plays at several levels with random actions mixed in. Without any,
            agents act at random.
        explorer: `explorer()` gives one agent's scripted policy that explores on its own
            observations alone (`act(observation, action_mask, rng)` and `end_episode()`); a
            yardstick, where the family has one.
        make_batch: Environments of many tasks in lock step, with the interface of `BatchEnv`, where
            the family has something faster than stepping one after the other.
        team_reward: How the agents' rewards make the team's: their sum, their mean, or `shared`
            where every agent is already paid the team reward.
        sizes: Most agents, longest observation and most actions of any task; found by making the
            environments of all tasks where it is not given.
        distance: `distance(a, b)`, how unlike the tasks of two parameters are; only to tell which
            training tasks are nearest to a held-out one, in what is reported of retrieval.
        layout: Where an observation holds whom, for models that read it by entities.
        at_once: Environments that a dataset is collected from side by side in a process, where each
            is costly; they are reset for episode after episode. Adaptation opens one for each run.
        configuration: The shipped configuration that `maicc run` starts from, for families that
            share one; else that of the family's name, or the defaults.
        description: One line for `maicc tasks`.
    """

    name: str
    make: Callable[..., Any]
    training: Mapping[str, Mapping[str, Any]] | Sequence[Mapping[str, Any]]
    held_out: Mapping[str, Mapping[str, Any]] | Sequence[Mapping[str, Any]]
    max_steps: int
    return_bounds: tuple[float, float] | None = None
    expert: Expert | None = None
    behaviours: Policy | Sequence[Policy] | None = None
    explorer: Callable[[], Any] | None = None
    make_batch: Callable[[Sequence[Task]], Any] | None = None
    team_reward: TeamReward = "sum"
    sizes: tuple[int, int, int] | None = None
    distance: Callable[[Mapping[str, Any], Mapping[str, Any]], float] | None = None
    layout: ObsLayout | None = None
    at_once: int | None = None
    configuration: str | None = field(default=None, compare=False)
    description: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for kind in ("training", "held_out"):
            object.__setattr__(self, kind, _named(getattr(self, kind)))
        if self.max_steps < 1:
            raise UserError(f"{self.name}: max_steps={self.max_steps} must be at least 1")
        if self.return_bounds is not None and not self.return_bounds[0] < self.return_bounds[1]:
            raise UserError(
                f"{self.name}: return_bounds={self.return_bounds} must be the lowest return and a "
                "higher one, or be left out: they are then those of the dataset"
            )
        if self.team_reward not in get_args(TeamReward):
            raise UserError(
                f"{self.name}: team_reward={self.team_reward!r} is not one of: "
                f"{', '.join(get_args(TeamReward))}"
            )

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all but the code: what is made of a family is not taken for another's."""
        parts = [self.training, self.held_out, self.max_steps, self.return_bounds, self.team_reward]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def behaviour_policies(self) -> list[Policy]:
        """The behaviours as a list."""
        if self.behaviours is None:
            return []
        return [self.behaviours] if callable(self.behaviours) else list(self.behaviours)

    @property
    def training_tasks(self) -> list[Task]:
        return [Task(self.name, name, p) for name, p in self.training.items()]

    @property
    def held_out_tasks(self) -> list[Task]:
        return [Task(self.name, name, p) for name, p in self.held_out.items()]

    def task(self, **parameters: Any) -> Task:
        """A task of one's own choice."""
        return Task(self.name, _name(parameters), parameters)

    def make_env(self, task: Task) -> ParallelEnv:
        if task.family != self.name:
            raise UserError(f"task {task.name} belongs to family {task.family}, not to {self.name}")
        return as_parallel(self.make(**task.parameters))

    @cached_property
    def spec(self) -> Spec:
        """Sizes of the largest task."""
        sizes = self.sizes
        if sizes is None:
            each = []
            for task in (*self.training_tasks, *self.held_out_tasks):
                env = self.make_env(task)
                each.append(largest_sizes(env))
                env.close()
            sizes = tuple(map(max, zip(*each, strict=True)))
        if self.layout is not None:
            self._check_layout(self.layout, *sizes[1:])
        return Spec(
            family=self.name,
            n_agents=sizes[0],
            observation_size=sizes[1],
            n_actions=sizes[2],
            max_steps=self.max_steps,
            return_min=float(self.return_bounds[0]) if self.return_bounds else None,
            return_max=float(self.return_bounds[1]) if self.return_bounds else None,
            layout=self.layout,
        )

    def _check_layout(self, layout: ObsLayout, observation_size: int, n_actions: int) -> None:
        groups = ((layout.own[0], 1, layout.own[1]), layout.allies, layout.enemies)
        ends = [start + count * size for start, count, size in groups]
        if (
            max(ends) > observation_size
            or layout.attack + layout.enemies[1] != n_actions
            or not 0 <= (layout.heals or 0) < layout.own[1]
        ):
            raise UserError(
                f"{self.name}: {layout} does not fit observations of {observation_size} numbers "
                f"and {n_actions} actions, of which the last {layout.enemies[1]} are the attacks; "
                "`heals` is the place of one of one's own numbers"
            )

    def draw_tasks(self, n: int, seed: int, *, held_out: bool = True) -> list[Task]:
        """`n` tasks in an order fixed by `seed`; none repeats before all have had their turn."""
        tasks = self.held_out_tasks if held_out else self.training_tasks
        order = np.random.default_rng([seed, 20]).permutation(len(tasks))
        return [tasks[order[i % len(tasks)]] for i in range(n)]


def _name(parameters: Mapping[str, Any]) -> str:
    return ",".join(f"{k}={v}" for k, v in parameters.items())


def _named(tasks: Any) -> Mapping[str, Mapping[str, Any]]:
    if isinstance(tasks, Mapping):
        return {name: _plain(parameters) for name, parameters in tasks.items()}
    plain = [_plain(parameters) for parameters in tasks]
    named = {_name(parameters): parameters for parameters in plain}
    if len(named) < len(plain):
        raise UserError("the same task is listed twice; every task has its own parameters")
    return named


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """As they come back from JSON."""
    try:
        return json.loads(json.dumps(dict(parameters), default=lambda number: number.item()))
    except (AttributeError, TypeError, ValueError):
        raise UserError(
            f"task parameters {dict(parameters)} are not plain JSON: use numbers, text, truth "
            "values, lists and dicts of them"
        ) from None


def sample_tasks(
    draw: Callable[[np.random.Generator], Mapping[str, Any]],
    training: int,
    held_out: int,
    seed: int = 0,
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Parameters of training and held-out tasks from a sampler, no task twice.

    Raises:
        UserError: the sampler has too few different tasks.
    """
    rng, found = np.random.default_rng([seed, 21]), {}
    for _ in range(100 * (training + held_out)):
        parameters = _plain(draw(rng))
        found.setdefault(_name(parameters), parameters)
        if len(found) == training + held_out:
            tasks = list(found.values())
            return tasks[:training], tasks[training:]
    raise UserError(f"the sampler gave {len(found)} tasks, {training + held_out} are needed")


_registered: dict[str, TaskFamily] = {}
_renamed: dict[str, tuple[TaskFamily, TaskFamily]] = {}  # as it calls itself, and as it is found


def register(family: TaskFamily) -> TaskFamily:
    """Makes a family known by its name in this process."""
    _registered[family.name] = family
    return family


def _plugins() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}


def families() -> Sequence[str]:
    """Names of all families known here: built in, registered, or installed as entry points."""
    return sorted({*_BUILT_IN, *_registered, *_plugins()})


def get_family(name: str) -> TaskFamily:
    """The family of that name, or the one at `module:attribute`.

    Raises:
        UserError: there is none, or what is there is no TaskFamily.
    """
    if name in _registered:
        return _registered[name]
    target = _BUILT_IN.get(name) or _plugins().get(name) or (name if ":" in name else None)
    if target is None:
        raise UserError(f"no task family {name!r}; there are: {', '.join(families())}")
    module, _, attribute = target.partition(":")
    if ":" in name and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a console script does not look there by itself
    try:
        family = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"task family {name!r} can't be loaded from {target}: {error}") from None
    if not isinstance(family, TaskFamily):
        raise UserError(f"{target} is a {type(family).__name__}, expected a maicc.envs.TaskFamily")
    if family.name == name:
        return family
    # what is written down with a dataset or model must lead back here
    known = _renamed.get(name)
    if known is None or known[0] is not family:
        known = _renamed[name] = (family, replace(family, name=name))
    return known[1]


def importable(family: TaskFamily) -> bool:
    """Whether another process finds this family by its name."""
    try:
        return family.name not in _registered and get_family(family.name) == family
    except UserError:
        return False
