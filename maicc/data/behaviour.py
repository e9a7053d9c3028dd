"""Behaviour policies: the players of a dataset's episodes.

An expert plays several times, at several levels: the more often it acts at random, the lower its
return. The rate that gives a level is found by trials. An annealed expert is given rates instead,
which fall evenly, as those of a learner do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from maicc.config import CollectConfig
from maicc.data.episodes import EpisodeBatch, concatenate, empty_episodes
from maicc.data.returns import share_of_maximum
from maicc.envs import BatchEnv, BatchStep, TaskFamily, batch_env
from maicc.streams import Stream
from maicc.types import Behaviour, Task, UserError

_TRIAL_EPISODES = 144  # per trial, about; at least 2 and at most 16 of a task
AT_ONCE = 50  # environments side by side, unless the family says how many
_CALIBRATION_TRIALS = 8
ANNEALED = "annealed"  # name of an expert whose rates of random actions fall evenly

# environment's row, what all environments showed, random numbers -> actions of the row's agents
Chooser = Callable[[int, BatchStep, np.random.Generator], Mapping[str, int]]


def play(
    family: TaskFamily,
    task: Task,
    rate: float,
    seeds: Sequence[Sequence[int]],
    policy: str = "expert",
) -> EpisodeBatch:
    """Plays one episode per seed, in lock step.

    Every episode's randomness comes from its own seed alone. The returned episodes have `task` and
    `behaviour` 0.

    Args:
        rate: Probability that an agent acts at random in a step, instead of as `policy`.
        policy: `expert` or `annealed`, the family's expert or its only behaviour; `policy0`,
            `policy1`, ..., its behaviours; `explorer`, which starts every episode knowing nothing;
            `random`.

    Raises:
        UserError: an environment breaks the contract, the policy chooses what it may not, or a
            return is outside the family's bounds.
    """
    policy = "expert" if policy == ANNEALED else policy
    limit = len(seeds) if family.make_batch else AT_ONCE
    size = min(len(seeds), family.at_once or limit)
    env = batch_env(family, [task] * size)
    try:
        if any(roster != env.rosters[0] for roster in env.rosters):
            raise UserError(
                f"{family.name}: possible_agents of task {task.name} are {env.rosters[0]} in one "
                "environment and in another order or others in the next; give them a fixed order"
            )
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
    episodes = concatenate(parts).take(slice(len(seeds)))
    family.require_within(episodes.returns, f"{family.name}, {policy} on task {task.name}")
    return episodes


def labelling_policy(family: TaskFamily) -> str | None:
    """Name of the best of the family's behaviour policies; None if agents act at random only."""
    if family.expert is not None or len(family.behaviour_policies) == 1:
        return "expert"
    return f"policy{len(family.behaviour_policies) - 1}" if family.behaviour_policies else None


def chooser(family: TaskFamily, policy: str, env: BatchEnv) -> Chooser:
    """Makes the function that chooses actions as `policy` does, in one episode of each row.

    The function raises UserError if the policy chooses what it may not.
    """
    if policy == "random":
        return lambda b, shown, rng: {}
    choose = _chooser(family, policy, env)

    def checked(b: int, shown: BatchStep, rng: np.random.Generator) -> Mapping[str, int]:
        chosen = choose(b, shown, rng)
        _check_choice(policy, chosen, env.rosters[b], shown.action_mask[b], shown.alive[b])
        return chosen

    return checked


def _check_choice(
    policy: str,
    chosen: Mapping[str, int],
    roster: Sequence[str],
    action_mask: np.ndarray,
    alive: np.ndarray,
) -> None:
    """Checks that a policy chose a legal action for every agent that has a choice.

    Args:
        action_mask: (N, A).
        alive: (N,) whether an agent takes part.

    Raises:
        UserError: it did not.
    """
    if not isinstance(chosen, Mapping):
        raise UserError(f"{policy} chose {chosen!r}, expected a dict of actions by agent")
    for i, agent in enumerate(roster):
        legal, action = np.flatnonzero(action_mask[i]), chosen.get(agent)
        if len(legal) < 2 or (action is None and not alive[i]):
            continue
        if action is None and agent not in chosen:
            raise UserError(
                f"{policy} chose no action for {agent}, which takes part; it chose for "
                f"{list(chosen)}"
            )
        if isinstance(action, bool) or not hasattr(action, "__index__") or action not in legal:
            raise UserError(
                f"{policy} chose an illegal action for {agent}: {action!r}, expected one of "
                f"{legal.tolist()}; look at the action mask before choosing"
            )


def _chooser(family: TaskFamily, policy: str, env: BatchEnv) -> Chooser:
    """Makes the function of `chooser`, without checks."""
    rosters, expert, sight = env.rosters, family.expert, family.plain_size
    if policy == "explorer":
        assert family.explorer is not None
        teams = [[family.explorer() for _ in roster] for roster in rosters]

        def explore(b: int, shown: BatchStep, rng: np.random.Generator) -> Mapping[str, int]:
            seen, masks = shown.observations[b, :, :sight], shown.action_mask[b]
            agents = zip(rosters[b], teams[b], seen, masks, strict=False)
            return {agent: mind.act(o, mask, rng) for agent, mind, o, mask in agents}

        return explore
    if policy == "expert" and expert is not None:
        return lambda b, shown, rng: expert(env.envs[b], rng)
    act = family.behaviour_policies[0 if policy == "expert" else int(policy.removeprefix("policy"))]

    def behave(b: int, shown: BatchStep, rng: np.random.Generator) -> Mapping[str, int]:
        seen, masks = shown.observations[b, :, :sight], shown.action_mask[b]
        agents = zip(rosters[b], seen, masks, strict=False)
        return {agent: act(o, mask, agent, rng) for agent, o, mask in agents}

    return behave


def legal_labels(
    chosen: Mapping[str, int], roster: Sequence[str], action_mask: np.ndarray
) -> np.ndarray:
    """Turns chosen actions into labels (N,): -1 where none was chosen, or it is not legal.

    Args:
        roster: Agents of the team, at most N.
        action_mask: (N, A).
    """
    labels = np.full(len(action_mask), -1, np.int64)
    for i, agent in enumerate(roster):
        action = chosen.get(agent)  # None of an agent that takes no part
        if action is not None and 0 <= action < action_mask.shape[1] and action_mask[i, action]:
            labels[i] = action
    return labels


def _play(
    family: TaskFamily,
    env: BatchEnv,
    rate: float,
    seeds: Sequence[Sequence[int]],
    policy: str,
) -> EpisodeBatch:
    """Plays one episode in each environment, all of one task."""
    choose, labeller = chooser(family, policy, env), labelling_policy(family)
    label_apart = None  # needed where the policy that plays is not the one that labels
    if labeller is not None and labeller != policy:
        label_apart = chooser(family, labeller, env)
    B, T, N = len(seeds), family.max_steps, family.spec.n_agents
    draws = np.stack(
        [np.random.default_rng([*s, Stream.RANDOM_ACTIONS]).random((T, N, 2)) for s in seeds]
    )
    rngs = [np.random.default_rng([*s, Stream.BEHAVIOUR]) for s in seeds]
    expert_rngs = [np.random.default_rng([*s, Stream.EXPERT_LABELS]) for s in seeds]
    resets = [int(rng.integers(2**31)) for rng in rngs]
    roster = env.rosters[0]  # one task, one team
    shown = env.reset(resets)
    episodes = empty_episodes(family.spec, B)
    episodes.seed[:] = resets
    episodes.agent_mask[:] = env.agent_mask
    for t in range(T):
        running = ~shown.done
        if not running.any():
            break
        episodes.observations[running, t] = shown.observations[running]
        episodes.action_mask[running, t] = shown.action_mask[running]
        episodes.alive[running, t] = shown.alive[running]
        actions = np.zeros((B, N), np.int64)
        for b in np.flatnonzero(running).tolist():
            planned = choose(b, shown, rngs[b])
            labels: Mapping[str, int] = planned if labeller else {}
            if label_apart is not None:
                labels = label_apart(b, shown, expert_rngs[b])
            episodes.expert_actions[b, t] = legal_labels(labels, roster, shown.action_mask[b])
            for i, agent in enumerate(roster):
                legal = np.flatnonzero(shown.action_mask[b, i])
                act_at_random = draws[b, t, i, 0] < rate
                random_action = legal[int(draws[b, t, i, 1] * len(legal))]
                # an agent that has left has one legal action, and nothing is chosen for it
                forced = act_at_random or len(legal) == 1 or planned.get(agent) is None
                actions[b, i] = random_action if forced else planned[agent]
        shown = env.step(actions)
        episodes.actions[running, t] = actions[running]
        episodes.rewards[running, t] = shown.rewards[running]
        episodes.individual_rewards[running, t] = shown.individual_rewards[running]
        episodes.length[running] += 1
    row = np.arange(B)
    episodes.observations[row, episodes.length] = shown.observations
    episodes.action_mask[row, episodes.length] = shown.action_mask
    episodes.terminated[:] = shown.terminated
    episodes.truncated[:] = shown.truncated
    return episodes


def with_bounds(family: TaskFamily, returns: np.ndarray) -> TaskFamily:
    """Gives the family the lowest and highest of these returns as its bounds."""
    low, high = float(returns.min()), float(returns.max())
    return replace(family, return_bounds=(low, high if high > low else low + 1.0))


def informed(family: TaskFamily, behaviours: Sequence[Behaviour]) -> np.ndarray:
    """Marks the behaviours (K,) whose failures no team could have lived through.

    They are an expert's, which sees the whole game and so acts on what tasks hide. None are where
    the family states no bounds: the best return of the data is then the maximum, which most
    episodes miss.
    """
    has_expert = family.expert is not None and family.return_bounds is not None
    return np.array(
        [
            has_expert and behaviour.name in ("expert", ANNEALED) and behaviour.random_rate < 1
            for behaviour in behaviours
        ],
        bool,
    )


def plays_at_levels(family: TaskFamily) -> bool:
    """True if the family has an expert, or a single behaviour policy that is used as one."""
    return labelling_policy(family) == "expert"


def behaviour_names(family: TaskFamily, config: CollectConfig) -> list[str]:
    """Names the policies that make a dataset, as `play` does; only the expert plays at levels."""
    names = [f"policy{i}" for i in range(len(family.behaviour_policies))]
    if plays_at_levels(family):
        expert = ANNEALED if config.anneal else "expert"
        names = [expert] if family.expert is None else [*names, expert]
    return (names or ["random"]) + ["explorer"] * config.explorer


def episodes_each(name: str, config: CollectConfig) -> int:
    """Counts the episodes of each task that a behaviour of that name plays."""
    if name != ANNEALED:
        return config.episodes
    return max(round(len(config.levels) * config.episodes / config.anneal), 1)


def episode_count(family: TaskFamily, config: CollectConfig) -> int:
    """Counts the episodes of a dataset."""
    levels = {"expert": len(config.levels), ANNEALED: config.anneal}
    of_each_task = sum(
        levels.get(name, 1) * episodes_each(name, config)
        for name in behaviour_names(family, config)
    )
    return of_each_task * len(family.training)


def plan_behaviours(
    family: TaskFamily, config: CollectConfig, trial: Callable[[float], np.ndarray]
) -> tuple[TaskFamily, list[Behaviour]]:
    """Plans the behaviours of a dataset, and gives the family return bounds if levels need them.

    An expert plays at each of the levels, by acting at random at some rate. The rates of an
    annealed expert are given, and nothing is played to find them. A family without an expert but
    with a single behaviour policy uses that one as its expert. Other behaviours play as they are.
    In a family without any, agents act at random.

    Args:
        trial: Function that gives the returns of a trial of all training tasks at a rate of random
            actions: those of `play_trial`. It is called once for a rate.

    Returns:
        The family, and the behaviours with `reached` still 0.
    """
    names, behaviours, trial = behaviour_names(family, config), [], cache(trial)
    if "expert" in names and family.return_bounds is None:
        family = with_bounds(family, np.concatenate([trial(0.0), trial(1.0)]))

    def reached(rate: float) -> float:
        assert family.return_bounds is not None
        return share_of_maximum(trial(rate), family.return_bounds)

    for name in names:
        if name == "expert":
            for level in config.levels:
                rate = round(calibrate(reached, level), 6)
                behaviours.append(Behaviour(name, rate, level, 0.0))
        elif name == ANNEALED:
            for rate in np.linspace(1.0, 0.0, config.anneal).tolist():
                behaviours.append(Behaviour(name, round(rate, 6), 0.0, 0.0))
        else:
            behaviours.append(Behaviour(name, 1.0 if name == "random" else 0.0, 0.0, 0.0))
    return family, behaviours


def trial_episodes_each(family: TaskFamily) -> int:
    """Counts the episodes of each training task in a trial."""
    return min(max(_TRIAL_EPISODES // len(family.training), 2), 16)


def play_trial(family: TaskFamily, task: int, rate: float, seed: int) -> np.ndarray:
    """Plays a training task's episodes of a trial of the expert, and gives their returns (E,).

    Args:
        task: Number of the training task.
        rate: Probability that an agent acts at random in a step.
    """
    seeds = [
        (seed, Stream.CALIBRATION, task, episode) for episode in range(trial_episodes_each(family))
    ]
    return play(family, family.training_tasks[task], rate, seeds).returns


def calibrate(reached: Callable[[float], float], level: float) -> float:
    """Finds the rate of random actions at which the mean return is nearest to `level`.

    The rate is bisected. All trials use the same seeds, which makes the return a near-monotone
    function of the rate. A level that lies below the return of random actions gets rate 1.

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
    """Counts the most episodes that `plan_behaviours` may play, for a progress bar."""
    if config.anneal:
        return 0
    trial = len(family.training) * trial_episodes_each(family)
    return (2 + len(config.levels) * _CALIBRATION_TRIALS) * trial
