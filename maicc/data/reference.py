"""Import of datasets in the layout of the authors' code.

Arrays, E episodes of T steps, the extra step holding the final observation: actions
(E, T+1, N, 1) int64, avail_actions (E, T+1, N, A), obs (E, T+1, N, O), reward, terminated and
filled (E, T+1, 1). Tasks lie in equal consecutive blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from maicc.data.arrays import behaviours_of, bounded
from maicc.data.dataset import write_episodes
from maicc.data.episodes import EpisodeBatch, alive_by_sight, empty_episodes
from maicc.data.returns import solved
from maicc.envs import TaskFamily
from maicc.files import hdf5_to_read
from maicc.types import Spec, UserError

REFERENCE_FIELDS = ("actions", "avail_actions", "obs", "reward", "terminated", "filled")


def convert_reference(source: Path, family: TaskFamily, out: Path) -> None:
    """Writes the authors' file `source` as a dataset of `family` to `out`.

    Their files lack three things, for which the conversion makes assumptions:

    * the behaviour of an episode: the quintile of its return within its task;
    * individual rewards: the team's rewards in equal parts;
    * whether the time limit ended an episode: it did if the episode used up the time limit without
      reaching the maximum return.

    Raises:
        UserError: names the file, the field and, where there is one, the episode.
    """
    arrays = _read(source)
    _check(arrays, family, source)
    length = _lengths(arrays, family.spec, source)
    played = np.arange(family.max_steps) < length[:, None]
    rewards = np.where(played, arrays["reward"][:, :-1, 0], 0.0).astype(np.float32)
    family = bounded(family, rewards.sum(1), source)
    episodes = _episodes(arrays, rewards, length, family)
    number, behaviours = behaviours_of(episodes, family.spec)
    episodes.behaviour[:] = number
    write_episodes(out, episodes, family.spec, family.training_tasks, behaviours)
    print(f"{out}: {len(length)} episodes of {len(family.training)} tasks from {source}")


def _check(arrays: Mapping[str, np.ndarray], family: TaskFamily, source: Path) -> None:
    """Checks shapes and values against the family."""
    s = family.spec
    E, T = arrays["actions"].shape[0], s.max_steps
    if not E:
        raise UserError(f"{source}: no episodes")
    if E % len(family.training):
        raise UserError(
            f"{source}: {E} episodes are not equal blocks of {len(family.training)} tasks, which "
            f"{family.name} has"
        )
    expected = {
        "actions": (E, T + 1, s.n_agents, 1),
        "avail_actions": (E, T + 1, s.n_agents, s.n_actions),
        "obs": (E, T + 1, s.n_agents, s.observation_size),
        **dict.fromkeys(("reward", "terminated", "filled"), (E, T + 1, 1)),
    }
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise UserError(
                f"{source}: field {name} has shape {arrays[name].shape}, expected {shape}"
            )
        if arrays[name].dtype.kind not in "biuf":
            raise UserError(f"{source}: field {name} is of {arrays[name].dtype}, expected numbers")
        with np.errstate(over="ignore"):
            bad = ~np.isfinite(arrays[name].astype(np.float32)).reshape(E, -1).all(1)
        if bad.any():
            raise UserError(f"{source}: field {name}, episode {bad.argmax()}: NaN or infinite")
    actions = arrays["actions"]
    bad = ((actions < 0) | (actions >= s.n_actions)).reshape(E, -1).any(1)
    if bad.any():
        raise UserError(
            f"{source}: field actions, episode {bad.argmax()}: an action is outside 0 to "
            f"{s.n_actions - 1}"
        )


def _lengths(arrays: Mapping[str, np.ndarray], spec: Spec, source: Path) -> np.ndarray:
    """Steps played in each episode (E,): up to its end, or all that are filled."""
    T = spec.max_steps
    ended = arrays["terminated"][:, :, 0] > 0
    filled = (arrays["filled"][:, :, 0] > 0).sum(1)
    length = np.where(ended.any(1), ended.argmax(1) + 1, filled - 1)
    bad = (length < 1) | (length > T) | (filled < length)
    if bad.any():
        e = int(bad.argmax())
        raise UserError(
            f"{source}: field filled, episode {e}: {filled[e]} steps filled, "
            f"{length[e]} played, expected 1 to {T}"
        )
    return length


def _episodes(
    arrays: Mapping[str, np.ndarray], rewards: np.ndarray, length: np.ndarray, family: TaskFamily
) -> EpisodeBatch:
    """Makes episodes of the arrays, with team rewards (E, T) and lengths (E,)."""
    s, E, n_tasks = family.spec, len(length), len(family.training)
    played = np.arange(s.max_steps) < length[:, None]
    observed = np.arange(s.max_steps + 1) <= length[:, None]
    truncated = (length == s.max_steps) & ~solved(rewards.sum(1), s.bounds)
    episodes = empty_episodes(s, E)
    episodes.observations[:] = arrays["obs"] * observed[:, :, None, None]
    episodes.actions[:] = arrays["actions"][:, :-1, :, 0] * played[:, :, None]
    episodes.action_mask[:] = (arrays["avail_actions"] > 0) & observed[:, :, None, None]
    episodes.agent_mask[:] = True
    episodes.rewards[:] = rewards
    episodes.individual_rewards[:] = rewards[:, :, None] / s.n_agents
    episodes.length[:] = length
    episodes.terminated[:] = ~truncated
    episodes.truncated[:] = truncated
    episodes.task[:] = np.repeat(np.arange(n_tasks), E // n_tasks)
    episodes.seed[:] = -1
    episodes.alive[:] = alive_by_sight(episodes.observations, episodes.action_mask, length)
    return episodes


def _read(source: Path) -> dict[str, np.ndarray]:
    if not source.exists():
        raise UserError(f"{source}: no such file")
    with hdf5_to_read(source, "fetch it again") as file:
        missing = [name for name in REFERENCE_FIELDS if name not in file]
        if missing:
            raise UserError(f"{source}: field {missing[0]} is missing")
        return {name: file[name][:] for name in REFERENCE_FIELDS}
