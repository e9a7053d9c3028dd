"""Behaviour policies: who plays the episodes of a dataset, how well, and at what rate at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from maicc.config import CollectConfig
from maicc.data.episodes import EpisodeBatch, concatenate, empty_episodes
from maicc.data.returns import share_of_maximum
from maicc.envs import BatchEnv, BatchStep, TaskFamily, batch_env
from maicc.types import Behaviour, Task

_TRIAL_EPISODES = 144  # per trial, about; at least 2 and at most 16 of a task
_AT_ONCE = 50  # environments side by side, unless the family says how many
_CALIBRATION_TRIALS = 8

# of one environment: its row, what it showed, its random numbers -> each agent's action
Chooser = Callable[[int, BatchStep, np.random.Generator], Mapping[str, int]]


def play(
    family: TaskFamily,
    task: Task,
    rate: float,
    seeds: Sequence[Sequence[int]],
    policy: str = "expert",
) -> EpisodeBatch:
    """One episode per seed, in lock step; each agent acts at random at `rate`, else as `policy`.

    Every episode's randomness comes from its own seed alone. `task` and `behaviour` are 0 in what
    is returned.

    Args:
        policy: `expert`, the family's expert or its only behaviour; `policy0`, `policy1`, ..., its
            behaviours; `explorer`, which starts every episode knowing nothing; `random`.
    """
    most = len(seeds) if family.make_batch else _AT_ONCE
    size = min(len(seeds), family.at_once or most)
    env = batch_env(family, [task] * size)
    try:
        parts = []
        for start in range(0, len(seeds), size):
            chunk = list(seeds[start : start + size])
            chunk += [chunk[-1]] * (size - len(chunk))  # the last one is filled up
            part = _play(family, env, rate, chunk, policy)
            while env.crashed.any():  # twice running is an error of the environment's
                part = _play(family, env, rate, chunk, policy)
            parts.append(part)
    finally:
        env.close()
    return concatenate(parts).take(slice(len(seeds)))


def labelling_policy(family: TaskFamily) -> str | None:
    """The best of the family's behaviour policies; None where agents act at random only."""
    if family.expert is not None or len(family.behaviour_policies) == 1:
        return "expert"
    return f"policy{len(family.behaviour_policies) - 1}" if family.behaviour_policies else None


def _chooser(family: TaskFamily, policy: str, env: BatchEnv) -> Chooser:
    roster = env.rosters[0]  # one task, one team
    if policy == "random":
        return lambda b, now, rng: {}
    if policy == "explorer":
        teams = [[family.explorer() for _ in roster] for _ in env.envs]

        def explore(b: int, now: BatchStep, rng: np.random.Generator) -> Mapping[str, int]:
            seen = zip(roster, teams[b], now.observations[b], now.action_mask[b], strict=False)
            return {agent: mind.act(o, mask, rng) for agent, mind, o, mask in seen}

        return explore
    if policy == "expert" and family.expert is not None:
        return lambda b, now, rng: family.expert(env.envs[b], rng)
    act = family.behaviour_policies[0 if policy == "expert" else int(policy.removeprefix("policy"))]

    def behave(b: int, now: BatchStep, rng: np.random.Generator) -> Mapping[str, int]:
        seen = zip(roster, now.observations[b], now.action_mask[b], strict=False)
        return {agent: int(act(o, mask, agent, rng)) for agent, o, mask in seen}

    return behave


def _play(
    family: TaskFamily,
    env: BatchEnv,
    rate: float,
    seeds: Sequence[Sequence[int]],
    policy: str,
) -> EpisodeBatch:
    """One episode per environment of one task."""
    choose, best_is = _chooser(family, policy, env), labelling_policy(family)
    expert = _chooser(family, best_is, env) if best_is not in (None, policy) else None
    B, T, N = len(seeds), family.max_steps, family.spec.n_agents
    draws = np.stack([np.random.default_rng([*s, 0]).random((T, N, 2)) for s in seeds])
    rngs, expert_rngs = ([np.random.default_rng([*s, i]) for s in seeds] for i in (1, 2))
    resets = [int(rng.integers(2**31)) for rng in rngs]
    roster = env.rosters[0]
    now = env.reset(resets)
    episodes = empty_episodes(family.spec, B)
    episodes.seed[:] = resets
    episodes.agent_mask[:] = env.agent_mask
    for t in range(T):
        running = ~now.done
        if not running.any():
            break
        episodes.observations[running, t] = now.observations[running]
        episodes.action_mask[running, t] = now.action_mask[running]
        episodes.alive[running, t] = now.alive[running]
        actions = np.zeros((B, N), np.int64)
        for b in np.flatnonzero(running):
            best = choose(b, now, rngs[b])
            known = expert(b, now, expert_rngs[b]) if expert else best if best_is else {}
            for i, agent in enumerate(roster):
                legal = np.flatnonzero(now.action_mask[b, i])
                label = known.get(agent, -1)
                episodes.expert_actions[b, t, i] = label if label in legal else -1
                act_at_random = draws[b, t, i, 0] < rate
                choice = legal[int(draws[b, t, i, 1] * len(legal))]
                # who has left has one legal action; whom the policy does not name acts at random
                forced = act_at_random or len(legal) == 1
                actions[b, i] = choice if forced else best.get(agent, choice)
        now = env.step(actions)
        episodes.actions[running, t] = actions[running]
        episodes.rewards[running, t] = now.rewards[running]
        episodes.individual_rewards[running, t] = now.individual_rewards[running]
        episodes.length[running] += 1
    at = np.arange(B)
    episodes.observations[at, episodes.length] = now.observations
    episodes.action_mask[at, episodes.length] = now.action_mask
    episodes.terminated[:] = now.terminated
    episodes.truncated[:] = now.truncated
    return episodes


def with_bounds(family: TaskFamily, returns: np.ndarray) -> TaskFamily:
    """The family with the lowest and highest of these returns as its bounds."""
    low, high = float(returns.min()), float(returns.max())
    return replace(family, return_bounds=(low, high if high > low else low + 1.0))


def behaviour_count(family: TaskFamily, config: CollectConfig) -> int:
    """How many behaviours a dataset has."""
    each = {"expert": len(config.levels)}
    return sum(each.get(name, 1) for name in behaviour_names(family, explorer=config.explorer))


def behaviour_names(family: TaskFamily, *, explorer: bool) -> list[str]:
    """Policies that make a dataset, as `play` names them; only the expert plays at levels."""
    names = [f"policy{i}" for i in range(len(family.behaviour_policies))]
    if labelling_policy(family) == "expert":
        names = ["expert"] if family.expert is None else [*names, "expert"]
    return (names or ["random"]) + ["explorer"] * explorer


def plan_behaviours(
    family: TaskFamily, config: CollectConfig, seed: int, progress: Callable[[int], object]
) -> tuple[TaskFamily, list[Behaviour]]:
    """Who plays, with `reached` still 0, and the family, with bounds where levels need them.

    An expert, or where there is none an only behaviour, plays at each of the levels by acting at
    random at some rate; other behaviours play as they are; without any, agents act at random.
    """
    names, planned = behaviour_names(family, explorer=config.explorer), []
    if "expert" in names and family.return_bounds is None:
        tried = [_trial(family, rate, seed) for rate in (0.0, 1.0)]
        progress(2 * len(family.training) * _each_task(family))
        family = with_bounds(family, concatenate(tried).returns)
    reached = cache(lambda rate: _reached(family, rate, seed, progress))
    for name in names:
        if name == "expert":
            for level in config.levels:
                rate = round(calibrate(reached, level), 6)
                planned.append(Behaviour(name, rate, level, 0.0))
        else:
            planned.append(Behaviour(name, 1.0 if name == "random" else 0.0, 0.0, 0.0))
    return family, planned


def _each_task(family: TaskFamily) -> int:
    """Episodes of each training task in a trial."""
    return min(max(_TRIAL_EPISODES // len(family.training), 2), 16)


def _trial(family: TaskFamily, rate: float, seed: int) -> EpisodeBatch:
    """A few episodes of each training task."""
    return concatenate(
        [
            play(family, task, rate, [(seed, 10, i, e) for e in range(_each_task(family))])
            for i, task in enumerate(family.training_tasks)
        ]
    )


def _reached(
    family: TaskFamily, rate: float, seed: int, progress: Callable[[int], object]
) -> float:
    progress(len(family.training) * _each_task(family))
    return share_of_maximum(_trial(family, rate, seed).returns, family.return_bounds)


def calibrate(reached: Callable[[float], float], level: float) -> float:
    """The random-action rate at which the mean return is nearest to `level`.

    Bisection on the rate; the same seeds at every trial make the return a near-monotone function
    of it. A level below what acting at random reaches gets rate 1.

    Args:
        reached: Share of the maximum at a rate.
    """
    low, high = 0.0, 1.0
    if level >= reached(low):
        return low
    if level <= reached(high):
        return high
    for _ in range(_CALIBRATION_TRIALS):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(middle) > level else (low, middle)
    return (low + high) / 2


def trial_episodes(family: TaskFamily, config: CollectConfig) -> int:
    """Most episodes that `plan_behaviours` plays, for a progress bar."""
    each = len(family.training) * _each_task(family)
    return (len(config.levels) * (_CALIBRATION_TRIALS + 2) + 2) * each
