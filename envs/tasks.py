"""Task families: tasks to train on, tasks to be tested on, and how to play them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal, get_args

import numpy as np
from pettingzoo import ParallelEnv

from maicc.envs.adapters import as_parallel, map_observations
from maicc.envs.drawing import Draw, Drawing
from maicc.envs.spaces import largest_sizes, roster_of
from maicc.streams import Stream
from maicc.types import ObsLayout, Spec, Task, UserError

REVEALED = "+revealed"  # ends the name of a family that tells the hidden part of its tasks
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
        make: Makes a fresh environment: `make(**task.parameters)`. It returns a PettingZoo
            `ParallelEnv` or parallelizable `AECEnv`, or a Gymnasium environment with a Tuple of
            spaces.
        training: Parameters of each training task, by task name, in plain JSON. A list of
            parameters is named after the parameters. `sample_tasks` draws such lists.
        held_out: Parameters of the tasks that are never trained on, in the same form.
        max_steps: Largest number of steps of an episode.
        return_bounds: Lowest and highest possible team return. If None, the lowest and highest
            return of the dataset are used.
        expert: Policy that sees the whole environment: `expert(env, rng)` returns the best known
            action of each agent that takes part.
        behaviours: Policies that make the dataset, beside the expert if there is one. They are
            given as one policy, or as a list from worst to best. `policy(observation, action_mask,
            agent, rng)` returns one agent's action from what this agent sees, padded to the largest
            sizes. A single policy without an expert plays at several levels, with random actions
            mixed in. If there is neither policy nor expert, agents act at random.
        explorer: Makes one agent's scripted policy that explores on its own observations alone,
            with `act(observation, action_mask, rng)` and `end_episode()`. It is a yardstick for
            trained teams.
        make_batch: Makes environments of many tasks in lock step, with the interface of `BatchEnv`,
            for families that have something faster than stepping them one after the other.
        team_reward: How the team's reward follows from the agents': their sum, their mean, or
            `shared` if every agent is already paid the team reward.
        sizes: Most agents, longest observation and most actions of any task. If None, the
            environments of all tasks are made to find them.
        distance: Tells how unlike two tasks are: `distance(parameters_a, parameters_b)`. It serves
            only to find the training tasks nearest to a held-out one for reports of retrieval.
        layout: Where an observation holds which entity, for models that read it by entities.
        reveal: Numbers that tell the hidden part of a task: `reveal(parameters)`, as many for every
            task. A decision model is asked for those of training tasks while it is trained. An
            oracle is told them; `revealed` appends them to every observation.
        draw: Draws what the team sees at one step: `draw(observations, present)` gives a `Drawing`.
            `maicc replay` shows it. Without it, frames of `render_mode="rgb_array"` are shown, or
            else the numbers that agents see.
        action_names: Names of the actions, for pictures; their numbers by default.
        tells: Whether observations end with these numbers. `revealed` sets it.
        at_once: Number of environments that a process collects a dataset from side by side, for
            families whose environments are costly. They are reset for episode after episode.
            Adaptation opens one for each run.
        configuration: Name of the shipped configuration that `maicc run` starts from, for families
            that share one. If None, it is the one of the family's name, or the defaults.
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
    reveal: Callable[[Mapping[str, Any]], Sequence[float]] | None = None
    draw: Draw | None = field(default=None, compare=False)
    action_names: Sequence[str] | None = field(default=None, compare=False)
    tells: bool = False
    at_once: int | None = None
    configuration: str | None = field(default=None, compare=False)
    description: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for kind in ("training", "held_out"):
            object.__setattr__(self, kind, _named(getattr(self, kind)))
        for name, length in (("max_steps", 1), ("at_once", 1), ("sizes", 3), ("return_bounds", 2)):
            object.__setattr__(self, name, self._plain_numbers(name, length))
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

    def _plain_numbers(self, name: str, length: int) -> Any:
        """Option `name` as finite numbers of Python's, whole and above 0 but for `return_bounds`.

        Raises:
            UserError: it is something else.
        """
        given, bounds = getattr(self, name), name == "return_bounds"
        if given is None and name != "max_steps":
            return None
        listed = given if length > 1 and np.iterable(given) else [given]
        numbers = [n.item() if isinstance(n, np.generic) else n for n in listed]
        if len(numbers) != length or not all(
            type(n) in (int, float) and math.isfinite(n) if bounds else type(n) is int and n >= 1
            for n in numbers
        ):
            kind = "finite numbers" if bounds else "whole numbers, at least 1"
            raise UserError(f"{self.name}: {name}={given!r}, expected {length} {kind}")
        return numbers[0] if length == 1 else tuple(numbers)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the tasks, the step limit, the return bounds and the team reward.

        It is kept with whatever is made of a family, and tells families of one name apart.
        """
        parts = [self.training, self.held_out, self.max_steps, self.return_bounds, self.team_reward]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def behaviour_policies(self) -> list[Policy]:
        """`behaviours` as a list."""
        if self.behaviours is None:
            return []
        return [self.behaviours] if callable(self.behaviours) else list(self.behaviours)

    @property
    def training_tasks(self) -> list[Task]:
        """Tasks to train on."""
        return self._tasks(self.training)

    @property
    def held_out_tasks(self) -> list[Task]:
        """Tasks that are never trained on."""
        return self._tasks(self.held_out)

    def _tasks(
        self, tasks: Mapping[str, Mapping[str, Any]] | Sequence[Mapping[str, Any]]
    ) -> list[Task]:
        assert isinstance(tasks, Mapping)  # `__post_init__` has named the tasks of a list
        return [Task(self.name, name, parameters) for name, parameters in tasks.items()]

    def task(self, **parameters: Any) -> Task:
        """Makes a task of one's own choice from its parameters."""
        return Task(self.name, _name(parameters), _plain(parameters))

    def make_env(self, task: Task) -> ParallelEnv:
        """Makes a fresh environment of `task`.

        Raises:
            UserError: the task belongs to another family, or `make` returns something unsupported.
        """
        if task.family != self.name:
            raise UserError(f"task {task.name} belongs to family {task.family}, not to {self.name}")
        env = as_parallel(self.make(**task.parameters))
        if not self.tells:
            return env
        size, told = self.plain_size, self.hidden_part(task)
        return map_observations(
            env, lambda seen: np.concatenate([seen, np.zeros(size - len(seen)), told])
        )

    def revealed(self) -> TaskFamily:
        """Makes the family whose observations tell the hidden part of the task at their end.

        Raises:
            UserError: the family has no `reveal`.
        """
        if self.reveal is None:
            raise UserError(
                f"{self.name} has no `reveal`, which tells the hidden part of a task: give the "
                "TaskFamily one"
            )
        spec = self.spec  # its sizes are those without what is told
        sizes = spec.n_agents, spec.observation_size, spec.n_actions
        draw = None if self.draw is None else partial(_draw_untold, self.draw, sizes[1])
        return replace(self, name=f"{self.name}{REVEALED}", tells=True, sizes=sizes, draw=draw)

    def hidden_part(self, task: Task) -> np.ndarray:
        """Numbers that tell the hidden part of a task, (R,) float32; none without `reveal`."""
        return np.asarray(self.reveal(task.parameters) if self.reveal else (), np.float32)

    @property
    def plain_size(self) -> int:
        """Length of an observation without what is revealed. Scripted policies see no more."""
        return self.sizes[1] if self.tells and self.sizes else self.spec.observation_size

    def rosters(self) -> list[list[str]]:
        """Rosters of the first and of the last training task, which tell orders of agents apart.

        A `make_batch` gives none.
        """
        rosters, tasks = [], [] if self.make_batch else self.training_tasks
        for task in [*tasks[:1], *tasks[-1:]]:
            with closing(self.make_env(task)) as env:
                rosters.append([str(agent) for agent in roster_of(env)])
        return rosters

    def require_rosters(self, expected: Sequence[Sequence[str]]) -> None:
        """Checks that agents are in the same order here as where `rosters` gave `expected`.

        Raises:
            UserError: they are not; agents would be taken for one another.
        """
        for there, here in zip(expected, self.rosters() if expected else [], strict=False):
            if [a for a in there if a in here] != [a for a in here if a in there]:
                raise UserError(
                    f"{self.name}: possible_agents was {list(there)} in another process and is "
                    f"{here} here; give the agents a fixed order (a set has none)"
                )

    def require_within(self, returns: Sequence[float] | np.ndarray, source: object) -> None:
        """Checks that returns are within `return_bounds`, where the family states them.

        Args:
            returns: Returns of episodes.
            source: What they are of, for the error.

        Raises:
            UserError: one of them is lower or higher.
        """
        low, high = self.return_bounds or (-np.inf, np.inf)
        lowest, highest = np.min(returns), np.max(returns)
        slack = 1e-3 + 1e-5 * (high - low)  # sums of rewards are of single precision
        if lowest < low - slack or highest > high + slack:
            raise UserError(
                f"{source}: returns from {lowest:.4g} to {highest:.4g}, outside the family's "
                f"return_bounds {low:g} to {high:g}; widen them, or leave them out: they are then "
                "those of the dataset"
            )

    @cached_property
    def spec(self) -> Spec:
        """Sizes of the largest task, with the step limit, the return bounds and the layout."""
        if self.tells:
            return self._telling(replace(self, tells=False).spec)
        sizes = self.sizes
        if sizes is None:
            task_sizes = []
            for task in (*self.training_tasks, *self.held_out_tasks):
                with closing(self.make_env(task)) as env:
                    task_sizes.append(largest_sizes(env))
            sizes = tuple(map(max, zip(*task_sizes, strict=True)))
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
            hidden=self.hidden_part(self.training_tasks[0]).size if self.training_tasks else 0,
        )

    def _telling(self, spec: Spec) -> Spec:
        """Lengthens the observation by what is revealed, which an agent reads as its own numbers.

        Raises:
            UserError: the layout has no place for it.
        """
        told, size, layout = spec.hidden, spec.observation_size, spec.layout
        if layout is not None:
            start, count = layout.own
            if start + count != size:
                raise UserError(
                    f"{self.name}: what is revealed lies behind the agent's own numbers, which "
                    f"must come last in the observation; {layout.own} of {size} do not"
                )
            layout = replace(layout, own=(start, count + told))
        return replace(spec, observation_size=size + told, layout=layout)

    def _check_layout(self, layout: ObsLayout, observation_size: int, n_actions: int) -> None:
        """Raises UserError unless the layout fits the largest observation and action set."""
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
        """Draws `n` tasks in an order fixed by `seed`.

        No task repeats before all have had their turn.
        """
        tasks = self.held_out_tasks if held_out else self.training_tasks
        order = np.random.default_rng([seed, Stream.DRAW_TASKS]).permutation(len(tasks))
        return [tasks[order[i % len(tasks)]] for i in range(n)]


def _draw_untold(draw: Draw, size: int, observations: np.ndarray, present: np.ndarray) -> Drawing:
    """Draws observations that end with what is told, behind their first `size` numbers."""
    return draw(observations[:, :size], present)


def _name(parameters: Mapping[str, Any]) -> str:
    """Name of the task that has these parameters and no name of its own."""
    return ",".join(f"{k}={v}" for k, v in parameters.items())


def _named(tasks: Any) -> Mapping[str, Mapping[str, Any]]:
    """Plain parameters by task name, from a mapping or a list.

    Raises:
        UserError: a list holds the same task twice, or parameters are not plain JSON.
    """
    if isinstance(tasks, Mapping):
        return {name: _plain(parameters) for name, parameters in tasks.items()}
    plain = [_plain(parameters) for parameters in tasks]
    named = {_name(parameters): parameters for parameters in plain}
    if len({json.dumps(parameters, sort_keys=True) for parameters in plain}) < len(plain):
        raise UserError("the same task is listed twice; every task has its own parameters")
    if len(named) < len(plain):
        raise UserError("two tasks have the same name; give a dict of parameters by task name")
    return named


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as they come back from JSON.

    Raises:
        UserError: they are not plain JSON.
    """
    if not isinstance(parameters, Mapping):
        raise UserError(
            f"the parameters of a task are {parameters!r}, expected a dict of the arguments that "
            "`make` takes for it"
        )
    try:
        plain = json.dumps(dict(parameters), default=lambda n: n.item(), allow_nan=False)
        return json.loads(plain)
    except (AttributeError, TypeError, ValueError):
        raise UserError(
            f"task parameters {parameters} are not plain JSON: use finite numbers, text, truth "
            "values, lists and dicts of them"
        ) from None


def sample_tasks(
    draw: Callable[[np.random.Generator], Mapping[str, Any]],
    training: int,
    held_out: int,
    seed: int = 0,
    game: Callable[[Mapping[str, Any]], Hashable] | None = None,
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Draws parameters of training and held-out tasks, no task twice.

    Args:
        draw: Draws the parameters of one task: `draw(rng)`.
        training: Number of training tasks.
        held_out: Number of held-out tasks.
        seed: Seed of the generator that `draw` is given.
        game: Tells which tasks are the same game under other parameters: `game(parameters)` is
            equal for them. No held-out task is then the game of another task. If None, tasks with
            different parameters are different games.

    Raises:
        UserError: the sampler has too few different tasks.
    """
    rng = np.random.default_rng([seed, Stream.SAMPLE_TASKS])
    trained: dict[str, Mapping[str, Any]] = {}  # parameters by task name
    tested: list[Mapping[str, Any]] = []
    games: set[Hashable] = set()
    for _ in range(100 * (training + held_out)):
        parameters = _plain(draw(rng))
        drawn = (game or _name)(parameters)
        if len(trained) < training:
            trained.setdefault(_name(parameters), parameters)
        elif drawn not in games:
            tested.append(parameters)
        games.add(drawn)
        if len(trained) + len(tested) == training + held_out:
            return [*trained.values()], tested
    raise UserError(
        f"the sampler gave {len(trained) + len(tested)} tasks, {training + held_out} are needed"
    )
