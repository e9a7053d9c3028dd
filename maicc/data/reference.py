"""Datasets in the layout of the authors' code, read into ours.

Arrays, E episodes of T steps, the extra step holding the final observation: actions
(E, T+1, N, 1) int64, avail_actions (E, T+1, N, A), obs (E, T+1, N, O), reward, terminated and
filled (E, T+1, 1). Tasks lie in equal consecutive blocks.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from maicc.data.arrays import behaviours_of
from maicc.data.behaviour import with_bounds
from maicc.data.dataset import write_episodes
from maicc.data.episodes import alive_by_sight, empty_episodes
from maicc.data.returns import solved
from maicc.envs import TaskFamily
from maicc.types import UserError

REFERENCE_FIELDS = ("actions", "avail_actions", "obs", "reward", "terminated", "filled")


def convert_reference(source: Path, family: TaskFamily, out: Path) -> None:
    """Writes the authors' file `source` as a dataset of `family` to `out`.

    Their files do not say which behaviour made an episode, nor what each agent was paid, nor
    apart whether the time limit or the task ended it: behaviours are the quintiles of the return
    within each task, individual rewards are the team's in equal parts, and an episode that used
    up the time limit without reaching the maximum return counts as truncated.

    Raises:
        UserError: names the file, the field and, where there is one, the episode.
    """
    arrays = _read(source)
    s = family.spec
    E, T = arrays["actions"].shape[0], s.max_steps
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
        bad = ~np.isfinite(arrays[name].astype(np.float64)).reshape(E, -1).all(1)
        if bad.any():
            raise UserError(f"{source}: field {name}, episode {bad.argmax()}: NaN or infinite")

    actions = arrays["actions"]
    bad = ((actions < 0) | (actions >= s.n_actions)).reshape(E, -1).any(1)
    if bad.any():
        raise UserError(
            f"{source}: field actions, episode {bad.argmax()}: an action is outside 0 to "
            f"{s.n_actions - 1}"
        )
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
    played = np.arange(T) < length[:, None]
    known = np.arange(T + 1) <= length[:, None]
    rewards = np.where(played, arrays["reward"][:, :T, 0], 0.0).astype(np.float32)
    returns = rewards.sum(1)
    if family.return_bounds is None:
        family = with_bounds(family, returns)
    truncated = (length == T) & ~solved(returns, family.return_bounds)
    episodes = empty_episodes(s, E)
    episodes.observations[:] = arrays["obs"] * known[:, :, None, None]
    episodes.actions[:] = actions[:, :T, :, 0] * played[:, :, None]
    episodes.action_mask[:] = (arrays["avail_actions"] > 0) & known[:, :, None, None]
    episodes.agent_mask[:] = True
    episodes.rewards[:] = rewards
    episodes.individual_rewards[:] = rewards[:, :, None] / s.n_agents
    episodes.length[:] = length
    episodes.terminated[:] = ~truncated
    episodes.truncated[:] = truncated
    episodes.task[:] = np.repeat(np.arange(len(family.training)), E // len(family.training))
    episodes.seed[:] = -1
    episodes.alive[:] = alive_by_sight(episodes.observations, episodes.action_mask, length)
    number, behaviours = behaviours_of(episodes, family.spec)
    episodes.behaviour[:] = number
    write_episodes(out, episodes, family.spec, family.training_tasks, behaviours)
    print(f"{out}: {E} episodes of {len(family.training)} tasks from {source}")


def _read(source: Path) -> dict[str, np.ndarray]:
    if not source.exists():
        raise UserError(f"{source}: no such file")
    try:
        with h5py.File(source, "r") as file:
            missing = [name for name in REFERENCE_FIELDS if name not in file]
            if missing:
                raise UserError(f"{source}: field {missing[0]} is missing")
            return {name: file[name][:] for name in REFERENCE_FIELDS}
    except OSError as error:
        raise UserError(
            f"{source}: not a readable HDF5 file, perhaps cut short ({error})"
        ) from None
