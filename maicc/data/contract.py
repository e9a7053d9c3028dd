"""Checks of a task family's contract: each item gets a verdict, and a fix where it fails."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stdout
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from pettingzoo.utils import BaseParallelWrapper

from maicc.config import CollectConfig
from maicc.data.behaviour import AT_ONCE, behaviour_names, play
from maicc.data.episodes import EpisodeBatch
from maicc.envs import TaskFamily, batch_env, importable
from maicc.envs.spaces import observation_box, random_actions, random_legal
from maicc.errors import located
from maicc.types import Task, UserError

_SECONDS = 1.0  # of the speed trial


class Verdict(NamedTuple):
    """One line of the report."""

    item: str
    fine: bool
    found: str
    fix: str = ""


# looks at one item; a text is what it found where all is fine
Look = Callable[[TaskFamily, Task], Verdict | str]


def check_contract(family: TaskFamily) -> Iterator[Verdict]:
    """Yields verdicts, in the order in which things are needed.

    After a failure, items that could not mean anything any more are left out.
    """
    family = replace(family, make_batch=None)  # the environments that `make` gives
    yield _verdict("tasks", lambda: _tasks(family), "")
    task = family.training_tasks[0] if family.training else None
    if task is None:
        return
    if family.reveal is not None:
        verdict = _verdict("reveal", lambda: _reveal(family), "")
        yield verdict
        if not verdict.fine:
            return
    basics: dict[str, Look] = {"spaces": _spaces, "episodes": _episodes}
    for item, look in basics.items():
        verdict = _verdict(item, partial(look, family, task), "")
        yield verdict
        if not verdict.fine:
            return
    fix = "see pettingzoo.farama.org, the Parallel API"
    yield _verdict("PettingZoo", partial(_pettingzoo, family, task), fix)
    others: dict[str, Look] = {
        "observations": _observations,
        "seeds": _seeds,
        "time limit": _time_limit,
        "returns": _returns,
        "behaviours": _behaviours,
        "speed": _speed,
    }
    for item, look in others.items():
        yield _verdict(item, partial(look, family, task), "")


def _verdict(item: str, look: Callable[[], Verdict | str], fix: str) -> Verdict:
    """Looks at an item; an exception is a failure, for which `fix` is the advice."""
    try:
        result = look()
    except Exception as error:
        return Verdict(item, False, located(error), fix)
    return result if isinstance(result, Verdict) else Verdict(item, True, result)


def _tasks(family: TaskFamily) -> Verdict:
    training = {json.dumps(task.parameters, sort_keys=True) for task in family.training_tasks}
    both = [
        task.name
        for task in family.held_out_tasks
        if json.dumps(task.parameters, sort_keys=True) in training
    ]
    if not family.training or not family.held_out:
        fix = "give the TaskFamily both `training` and `held_out`"
        return Verdict("tasks", False, "no training or no held-out tasks", fix)
    if both:
        fix = "take them out of `held_out`: what was trained on tells nothing of adaptation"
        return Verdict("tasks", False, f"held out, and trained on as well: {both[0]}", fix)
    numbers = f"{len(family.training)} for training, {len(family.held_out)} held out"
    return Verdict("tasks", True, numbers)


def _spaces(family: TaskFamily, task: Task) -> str:
    s = family.spec
    _require_one_order(family)
    return (
        f"up to {s.n_agents} agents, {s.observation_size} observation numbers, {s.n_actions} "
        f"actions, {s.max_steps} steps"
    )


def _require_one_order(family: TaskFamily) -> None:
    """Checks that agents have the same order in other processes, where sets have another.

    Raises:
        UserError: they do not.
    """
    code = (
        "import json, sys; sys.path.insert(0, ''); from maicc.envs import get_family; "
        "print('\\n' + json.dumps(get_family(sys.argv[1]).rosters()))"
    )
    others = [
        subprocess.Popen(
            [sys.executable, "-c", code, family.name],
            env={**os.environ, "PYTHONHASHSEED": seed}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )
        for seed in (("0", "1") if importable(family) else ())
    ]  # fmt: skip
    told = [(other.communicate()[0], other.returncode) for other in others]
    for said, failed in told:
        if not failed:
            family.require_rosters(json.loads(said.splitlines()[-1]))


def _episodes(family: TaskFamily, task: Task) -> str:
    """Plays two episodes of every task with random legal actions.

    The environment's batch checks rosters, shapes, masks and rewards on the way.
    """
    restricted = False
    tasks = [*family.training_tasks, *family.held_out_tasks]
    for task in [tasks[0], tasks[-1]] if family.at_once else tasks:
        episodes = _at_random(family, task, 2)
        restricted |= not episodes.action_mask[:, :-1][_agents_steps(episodes)].all()
    masks = "with illegal actions masked" if restricted else "every action always legal"
    return f"2 of each task played, {masks}"


class _OnlyLegal(BaseParallelWrapper):
    """Replaces illegal actions by legal ones.

    PettingZoo's test needs it, as it does not look at masks in `infos`.
    """

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[Any, Any]:
        self._observations, self._infos = self.env.reset(seed=seed, options=options)
        return self._observations, self._infos

    def step(self, actions: dict[str, int]) -> tuple[Any, ...]:
        legal = random_actions(self.env, self._observations, self._infos, np.random.default_rng(0))
        for agent, action in actions.items():
            mask = self._infos.get(agent, {}).get("action_mask")
            if mask is None or mask[action]:
                legal[agent] = action
        self._observations, *outcome, self._infos = self.env.step(legal)
        return self._observations, *outcome, self._infos


def _pettingzoo(family: TaskFamily, task: Task) -> str:
    from pettingzoo.test import parallel_api_test  # which imports games

    with (
        closing(_OnlyLegal(family.make_env(task))) as env,
        redirect_stdout(io.StringIO()),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        parallel_api_test(env, num_cycles=2 * family.max_steps)
    texts = [str(w.message) for w in caught if not issubclass(w.category, DeprecationWarning)]
    return "parallel_api_test passed" + (f"; it warns: {texts[0]}" if texts else "")


def _observations(family: TaskFamily, task: Task) -> Verdict | str:
    """Checks the values against the observation space, which `_episodes` does not."""
    largest = 0.0
    with closing(family.make_env(task)) as env:
        for step, (observations, _) in enumerate(_walk(env, family.max_steps, seed=0)):
            for agent, observation in observations.items():
                box = observation_box(env, agent)
                numbers = np.array(_numbers(observation))
                largest = max(largest, float(np.abs(numbers).max()))
                beyond = np.maximum(box.low - numbers, numbers - box.high)
                if beyond.max() > 1e-4:
                    value = numbers[beyond.argmax()]
                    return Verdict(
                        "observations", False,
                        f"{agent} saw {value:.4g} at step {step}, outside its observation_space",
                        "widen the Box in observation_space, or clip what is observed",
                    )  # fmt: skip
    scale = "; numbers above 10 are learnt badly, scale them to about 1" if largest > 10 else ""
    return f"inside their spaces, up to {largest:.3g}{scale}"


def _seeds(family: TaskFamily, task: Task) -> Verdict | str:
    """Checks that the same seed gives the same episode, whatever was played before or beside it."""
    with (
        closing(family.make_env(task)) as fresh,
        closing(family.make_env(task)) as used,
        closing(family.make_env(task)) as third,
    ):
        _trace(used, family.max_steps, 1)
        episode = _trace(fresh, family.max_steps, 7)
        if episode != _trace(used, family.max_steps, 7):
            alike = episode == _trace(third, family.max_steps, 7)
            return Verdict(
                "seeds", False,
                "reset(seed=7) and the same actions gave another episode"
                + (" in an environment that had been played before" if alike else ""),
                "draw everything random in reset and step from a generator that reset(seed) seeds",
            )  # fmt: skip
    if not family.at_once:
        _require_apart(family)
    return "reset(seed) fixes the episode"


def _reveal(family: TaskFamily) -> str:
    tasks = [*family.training_tasks, *family.held_out_tasks]
    shape = family.hidden_part(tasks[0]).shape
    for task in tasks:
        part = family.hidden_part(task)
        if part.shape != shape or part.ndim != 1 or not np.isfinite(part).all():
            raise UserError(
                f"{family.name}: reveal gives {part.tolist()} for task {task.name}; give as many "
                "finite numbers for each task"
            )
    return f"tells {shape[0]} numbers of each task"


def _require_apart(family: TaskFamily) -> None:
    """Checks that environments share nothing, if a seed fixes an episode of theirs.

    The first task is played alone, and beside itself and the last task.

    Raises:
        UserError: beside others it was played differently.
    """
    first, last = family.training_tasks[0], [*family.training_tasks, *family.held_out_tasks][-1]
    alone, again = (_first_row(family, [first]) for _ in range(2))
    if alone == again and alone != _first_row(family, [first, first, last]):
        raise UserError(
            f"{family.name}: an episode of task {first.name} was another one with other "
            "environments beside it; keep what changes in `self`, not in the class or the module"
        )


def _first_row(family: TaskFamily, tasks: list[Task]) -> list[bytes]:
    """What the first of several environments showed in an episode of random legal actions."""
    with closing(batch_env(family, tasks)) as env:
        rng, others = np.random.default_rng(7), np.random.default_rng(8)
        shown, rows = env.reset(range(7, 7 + len(tasks))), []
        while not shown.done[0]:
            rows.append(b"".join(part[0].tobytes() for part in shown))
            actions = random_legal(shown.action_mask, others)
            actions[0] = random_legal(shown.action_mask[0], rng)
            shown = env.step(actions)
        return [*rows, b"".join(part[0].tobytes() for part in shown)]


def _time_limit(family: TaskFamily, task: Task) -> str:
    episodes = _at_random(family, task, 5)
    late = episodes.length == family.max_steps
    terminated, truncated = (
        int(ends[late].sum()) for ends in (episodes.terminated, episodes.truncated)
    )
    if terminated > 1:
        return (
            f"{terminated} of 5 random episodes ended at step {family.max_steps} as terminated; if "
            "that is a time-out, report truncation"
        )
    return f"{truncated} of 5 random episodes were truncated at step {family.max_steps}"


def _returns(family: TaskFamily, task: Task) -> str:
    returns = _at_random(family, task, 5).returns
    family.require_within(returns, "random agents")
    result = f"random agents got {returns.min():.4g} to {returns.max():.4g}"
    if family.return_bounds is None:
        return f"{result}; bounds will be those of the dataset"
    low, high = family.return_bounds
    return f"{result} of {low:g} to {high:g}"


def _behaviours(family: TaskFamily, task: Task) -> str:
    """Lets each behaviour of a dataset play two episodes of the first training task."""
    results = []
    config = CollectConfig(explorer=family.explorer is not None)
    for name in behaviour_names(family, config):
        if name == "random":
            continue
        returns = play(family, task, 0.0, [(0, 0), (0, 1)], name).returns
        results.append(f"{name} gets {returns.mean():.4g}")
    return "; ".join(results) or "none: the dataset will be of agents that act at random"


def _speed(family: TaskFamily, task: Task) -> str:
    rng, steps, start = np.random.default_rng(0), 0, time.perf_counter()
    with closing(batch_env(family, [task])) as env:
        while time.perf_counter() - start < _SECONDS:
            shown = env.reset([steps])
            while not shown.done.all() and time.perf_counter() - start < _SECONDS:
                shown = env.step(random_legal(shown.action_mask, rng))
                steps += 1
    return f"{steps / (time.perf_counter() - start):.0f} steps/s in one process"


def _at_random(family: TaskFamily, task: Task, episodes: int) -> EpisodeBatch:
    free = replace(family, return_bounds=None)  # `_returns` tells whether they are wrong
    return play(free, task, 1.0, [(0, e) for e in range(episodes)], "random")


def _agents_steps(episodes: EpisodeBatch) -> np.ndarray:
    """Steps that were played, of agents that are there: (E, T, N) bool."""
    return episodes.played[:, :, None] & episodes.agent_mask[:, None]


def _walk(env: Any, steps: int, seed: int) -> Iterator[tuple[dict[str, Any], dict[str, float]]]:
    """Plays an episode of random legal actions.

    Yields:
        Each step's observations, and the rewards that came with them; none at the start.
    """
    rng = np.random.default_rng(seed)
    observations, infos = env.reset(seed=seed)
    yield observations, {}
    for _ in range(steps):
        actions = random_actions(env, observations, infos, rng)
        observations, rewards, _, _, infos = env.step(actions)
        yield observations, rewards
        if not env.agents:
            return


def _trace(env: Any, steps: int, seed: int) -> list[Any]:
    """Observations and rewards of an episode, rounded."""
    return [
        (
            {agent: _numbers(o) for agent, o in observations.items()},
            {agent: round(float(r), 5) for agent, r in rewards.items()},
        )
        for observations, rewards in _walk(env, steps, seed)
    ]


def _numbers(observation: Any) -> list[float]:
    if isinstance(observation, dict):
        observation = observation["observation"]
    return np.round(np.asarray(observation, np.float64).reshape(-1), 5).tolist()


def report(verdicts: Iterator[Verdict], write: Callable[[str], object] = print) -> bool:
    """Prints the verdicts, and returns whether all is fine."""
    fine = True
    for v in verdicts:
        fine &= v.fine
        write(f"{'ok  ' if v.fine else 'FAIL'}  {v.item:13} {v.found}")
        if v.fix and not v.fine:
            write(f"{'':20}{v.fix}")
    return fine


def check_family(family: TaskFamily) -> None:
    """Plays an episode of random legal actions on each task, to refuse a broken contract early.

    Where environments are costly, it plays the first and the last task only.

    Raises:
        UserError: agents, spaces, masks or rewards break the contract, an episode goes on too long,
            tasks are missing or held out and trained on as well, or `reveal` is of no use.
    """
    verdict = _tasks(family)
    if not verdict.fine:
        raise UserError(f"{family.name}: {verdict.found}; {verdict.fix}")
    tasks = [*family.training_tasks, *family.held_out_tasks]
    if family.reveal is not None:
        _reveal(family)
    if family.make_batch and len(tasks) > AT_ONCE:
        tasks += tasks[-1:] * (-len(tasks) % AT_ONCE)  # it is compiled for each number of games
    rng = np.random.default_rng(0)
    groups = [tasks[i : i + AT_ONCE] for i in range(0, len(tasks), AT_ONCE)]
    for group in [[tasks[0]], [tasks[-1]]] if family.at_once else groups:
        with closing(batch_env(family, group)) as env:
            shown = env.reset(range(len(group)))
            for _ in range(family.max_steps):
                if not shown.done.all():
                    shown = env.step(random_legal(shown.action_mask, rng))
            if not shown.done.all():
                raise UserError(
                    f"{family.name}: an episode goes on after max_steps={family.max_steps} steps; "
                    "end it there, or give a larger max_steps"
                )
    if not family.at_once and not family.make_batch:
        _require_apart(family)
