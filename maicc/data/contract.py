"""Does a task family keep its contract? Every item with a verdict, and the fix where it fails."""

from __future__ import annotations

import io
import json
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stdout
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from pettingzoo.test import parallel_api_test
from pettingzoo.utils import BaseParallelWrapper

from maicc.data.behaviour import behaviour_names, play
from maicc.data.episodes import EpisodeBatch
from maicc.envs import TaskFamily, batch_env
from maicc.envs.spaces import observation_box, random_actions, random_legal
from maicc.types import Task, UserError

_SECONDS = 1.0  # of the speed trial
_WIDEN = "widen return_bounds, or leave them out: they are then those of the dataset"


class Verdict(NamedTuple):
    """One line of the report."""

    item: str
    fine: bool
    found: str
    fix: str = ""


def check_contract(family: TaskFamily) -> Iterator[Verdict]:
    """Verdicts, in the order in which things are needed.

    Those that follow a failure are left out where they could not mean anything.
    """
    family = replace(family, make_batch=None)  # the environments that `make` gives
    yield _verdict("tasks", lambda: _tasks(family), "")
    task = family.training_tasks[0] if family.training else None
    if task is None:
        return
    for item, look, fix in (
        ("spaces", _spaces, ""),
        ("episodes", _episodes, ""),
        ("PettingZoo", _pettingzoo, "see pettingzoo.farama.org, the Parallel API"),
    ):
        verdict = _verdict(item, lambda look=look: look(family, task), fix)
        yield verdict
        if not verdict.fine and item != "PettingZoo":
            return
    for item, look in (
        ("observations", _observations),
        ("seeds", _seeds),
        ("time limit", _time_limit),
        ("returns", _returns),
        ("behaviours", _behaviours),
        ("speed", _speed),
    ):
        yield _verdict(item, lambda look=look: look(family, task), "")


def _verdict(item: str, look: Callable[[], Verdict | str], fix: str) -> Verdict:
    try:
        result = look()
    except Exception as error:
        found = str(error).strip() or type(error).__name__
        if not isinstance(error, UserError):
            last = traceback.extract_tb(error.__traceback__)[-1]
            found = f"{type(error).__name__}: {found} ({last.filename}:{last.lineno}, {last.name})"
        return Verdict(item, False, found, fix)
    return result if isinstance(result, Verdict) else Verdict(item, True, result)


def _tasks(family: TaskFamily) -> Verdict:
    known = {json.dumps(task.parameters, sort_keys=True) for task in family.training_tasks}
    both = [
        task.name
        for task in family.held_out_tasks
        if json.dumps(task.parameters, sort_keys=True) in known
    ]
    if not family.training or not family.held_out:
        fix = "give the TaskFamily both `training` and `held_out`"
        return Verdict("tasks", False, "no training or no held-out tasks", fix)
    if both:
        fix = "take them out of `held_out`: what was trained on tells nothing of adaptation"
        return Verdict("tasks", False, f"held out, and trained on as well: {both[0]}", fix)
    found = f"{len(family.training)} for training, {len(family.held_out)} held out"
    return Verdict("tasks", True, found)


def _spaces(family: TaskFamily, task: Task) -> str:
    s = family.spec
    return (
        f"up to {s.n_agents} agents, {s.observation_size} observation numbers, {s.n_actions} "
        f"actions, {s.max_steps} steps"
    )


def _episodes(family: TaskFamily, task: Task) -> str:
    """Two episodes of every task under random legal actions: roster, shapes, masks, rewards."""
    restricted = False
    tasks = [*family.training_tasks, *family.held_out_tasks]
    for one in [tasks[0], tasks[-1]] if family.at_once else tasks:
        played = _at_random(family, one, 2)
        steps = np.arange(family.max_steps) < played.length[:, None]
        there = steps[:, :, None] & played.agent_mask[:, None]
        restricted |= not played.action_mask[:, :-1][there].all()
    masks = "with illegal actions masked" if restricted else "every action always legal"
    return f"2 of each task played, {masks}"


class _OnlyLegal(BaseParallelWrapper):
    """PettingZoo's test does not look at masks in `infos`: what is illegal becomes legal."""

    def reset(self, seed: int | None = None, options: dict | None = None):
        self._seen, self._infos = self.env.reset(seed=seed, options=options)
        return self._seen, self._infos

    def step(self, actions: dict[str, int]):
        legal = random_actions(self.env, self._seen, self._infos, np.random.default_rng(0))
        for agent, action in actions.items():
            mask = self._infos.get(agent, {}).get("action_mask")
            if mask is None or mask[action]:
                legal[agent] = action
        self._seen, *rest, self._infos = self.env.step(legal)
        return self._seen, *rest, self._infos


def _pettingzoo(family: TaskFamily, task: Task) -> str:
    env = _OnlyLegal(family.make_env(task))
    with redirect_stdout(io.StringIO()), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        parallel_api_test(env, num_cycles=2 * family.max_steps)
    env.close()
    ours = [str(w.message) for w in said if not issubclass(w.category, DeprecationWarning)]
    return "parallel_api_test passed" + (f"; it warns: {ours[0]}" if ours else "")


def _observations(family: TaskFamily, task: Task) -> Verdict | str:
    """Also the values, which a space of numbers promises and `episodes` does not look at."""
    env, largest = family.make_env(task), 0.0
    for step, (seen, _) in enumerate(_walk(env, family.max_steps, seed=0)):
        for agent, observation in seen.items():
            box = observation_box(env, agent)
            shown = np.array(_numbers(observation))
            largest = max(largest, float(np.abs(shown).max()))
            beyond = np.maximum(box.low - shown, shown - box.high)
            if beyond.max() > 1e-4:
                value = shown[beyond.argmax()]
                return Verdict(
                    "observations", False,
                    f"{agent} saw {value:.4g} at step {step}, outside its observation_space",
                    "widen the Box in observation_space, or clip what is observed",
                )  # fmt: skip
    env.close()
    scale = "; numbers above 10 are learnt badly, scale them to about 1" if largest > 10 else ""
    return f"inside their spaces, up to {largest:.3g}{scale}"


def _seeds(family: TaskFamily, task: Task) -> Verdict | str:
    """The same seed gives the same episode, in a fresh environment and in one with a history."""
    first, second = family.make_env(task), family.make_env(task)
    _trace(second, family.max_steps, 1)
    episode = _trace(first, family.max_steps, 7)
    if episode != _trace(second, family.max_steps, 7):
        alike = episode == _trace(family.make_env(task), family.max_steps, 7)
        return Verdict(
            "seeds", False,
            "reset(seed=7) and the same actions gave another episode"
            + (" in an environment that had been played before" if alike else ""),
            "draw everything random in reset and step from a generator that reset(seed) seeds",
        )  # fmt: skip
    return "reset(seed) fixes the episode"


def _time_limit(family: TaskFamily, task: Task) -> str:
    played = _at_random(family, task, 5)
    late = played.length == family.max_steps
    terminated, truncated = (
        int(ends[late].sum()) for ends in (played.terminated, played.truncated)
    )
    if terminated > 1:
        return (
            f"{terminated} of 5 random episodes ended at step {family.max_steps} as terminated; if "
            "that is a time-out, report truncation"
        )
    return f"{truncated} of 5 random episodes were truncated at step {family.max_steps}"


def _returns(family: TaskFamily, task: Task) -> Verdict | str:
    seen = _at_random(family, task, 5).returns
    found = f"random agents got {seen.min():.4g} to {seen.max():.4g}"
    if family.return_bounds is None:
        return f"{found}; bounds will be those of the dataset"
    if not _within(seen, family):
        return Verdict(
            "returns", False, f"{found}, outside return_bounds {family.return_bounds}", _WIDEN
        )
    low, high = family.return_bounds
    return f"{found} of {low:g} to {high:g}"


def _behaviours(family: TaskFamily, task: Task) -> Verdict | str:
    """Whoever makes the dataset plays two episodes of the first training task."""
    found = []
    for name in behaviour_names(family, explorer=family.explorer is not None):
        if name == "random":
            continue
        played = play(family, task, 0.0, [(0, 0), (0, 1)], name)
        legal = np.take_along_axis(played.action_mask[:, :-1], played.actions[..., None], 3)
        steps = np.arange(family.max_steps) < played.length[:, None]
        if not legal[..., 0][steps[:, :, None] & played.agent_mask[:, None]].all():
            fix = "look at the action mask before choosing"
            return Verdict("behaviours", False, f"{name} chose an illegal action", fix)
        returns = played.returns
        if not _within(returns, family):
            got = f"{name} got {returns.min():.4g} to {returns.max():.4g}"
            return Verdict(
                "behaviours", False, f"{got}, outside return_bounds {family.return_bounds}", _WIDEN
            )
        found.append(f"{name} gets {returns.mean():.4g}")
    return "; ".join(found) or "none: the dataset will be of agents that act at random"


def _speed(family: TaskFamily, task: Task) -> str:
    env, rng = batch_env(family, [task]), np.random.default_rng(0)
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < _SECONDS:
        now = env.reset([steps])
        while not now.done.all() and time.perf_counter() - start < _SECONDS:
            now = env.step(random_legal(now.action_mask, rng))
            steps += 1
    env.close()
    return f"{steps / (time.perf_counter() - start):.0f} steps/s in one process"


def _at_random(family: TaskFamily, task: Task, episodes: int) -> EpisodeBatch:
    return play(family, task, 1.0, [(0, e) for e in range(episodes)], "random")


def _within(returns: np.ndarray, family: TaskFamily) -> bool:
    low, high = family.return_bounds or (-np.inf, np.inf)
    return low - 1e-4 <= returns.min() and returns.max() <= high + 1e-4


def _walk(env: Any, steps: int, seed: int) -> Iterator[tuple[dict[str, Any], dict[str, float]]]:
    """What agents saw, and were paid before it, through an episode of random legal actions."""
    rng = np.random.default_rng(seed)
    seen, infos = env.reset(seed=seed)
    yield seen, {}
    for _ in range(steps):
        actions = random_actions(env, seen, infos, rng)
        seen, rewards, _, _, infos = env.step(actions)
        yield seen, rewards
        if not env.agents:
            return


def _trace(env: Any, steps: int, seed: int) -> list[Any]:
    """An episode's numbers, rounded."""
    return [
        (
            {agent: _numbers(o) for agent, o in seen.items()},
            {agent: round(float(r), 5) for agent, r in rewards.items()},
        )
        for seen, rewards in _walk(env, steps, seed)
    ]


def _numbers(observation: Any) -> list[float]:
    if isinstance(observation, dict):
        observation = observation["observation"]
    return np.round(np.asarray(observation, np.float64).reshape(-1), 5).tolist()


def report(verdicts: Iterator[Verdict], write: Callable[[str], object] = print) -> bool:
    """Prints the verdicts; True where all is fine."""
    fine = True
    for v in verdicts:
        fine &= v.fine
        write(f"{'ok  ' if v.fine else 'FAIL'}  {v.item:13} {v.found}")
        if v.fix and not v.fine:
            write(f"{'':20}{v.fix}")
    return fine


def check_family(family: TaskFamily) -> None:
    """Plays an episode of random legal actions on the tasks, to refuse a broken contract early.

    Raises:
        UserError: agents, spaces, masks or rewards break the contract, or there are no tasks.
    """
    if not family.training or not family.held_out:
        raise UserError(f"family {family.name} needs at least one training and one held-out task")
    tasks = [*family.training_tasks, *family.held_out_tasks]
    rng = np.random.default_rng(0)
    # where environments are costly, one of each kind must do
    for some in [[tasks[0]], [tasks[-1]]] if family.at_once else [tasks]:
        with closing(batch_env(family, some)) as env:
            now = env.reset(range(len(some)))
            while not now.done.all():
                now = env.step(random_legal(now.action_mask, rng))
