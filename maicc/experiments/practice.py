"""Play of a practice round: a trained team adapts to training tasks, and each step is labelled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from maicc.baselines import method_of
from maicc.config import RunConfig
from maicc.data.behaviour import chooser, labelling_policy, legal_labels
from maicc.data.dataset import EpisodeFile
from maicc.envs import BatchEnv, BatchStep, TaskFamily, batch_env, get_family
from maicc.evaluation.adapt import play_episode
from maicc.files import ModelFiles
from maicc.streams import Stream
from maicc.training.practice_data import PracticeRuns


def play_practice(config: RunConfig, fit: str, path: Path, files: ModelFiles) -> None:
    """Lets the team that was trained so far adapt to training tasks, and writes the runs.

    Args:
        config: Options of the run.
        fit: The fit that learns from the runs.
        path: File of the runs.
        files: Where the dataset and the checkpoints are.
    """
    run: Any = config  # the method's own class, which has sections for practice and memory
    family, method = get_family(config.family), method_of(config.method)
    rounds_left = len(method.fits_of(config)) - method.fits_of(config).index(fit)
    rounds_before = run.practice.rounds - rounds_left
    before = replace(run, practice=replace(run.practice, rounds=rounds_before))
    models = method.load(before, files, family.spec, config.device)
    family.require_rosters(models.rosters)
    adapt = replace(
        run.adapt,
        episodes=run.practice.episodes,
        memory=replace(run.adapt.memory, max_episodes=0),
    )
    rng = np.random.default_rng([config.seed, Stream.PRACTICE_TEAMS, rounds_before])
    tasks = EpisodeFile(files.episodes).tasks  # the training tasks
    task = np.resize(rng.permutation(len(tasks)), run.practice.runs)  # of each run, all in turn
    seeds = [int(seed) for seed in rng.integers(2**31, size=len(task))]
    env = batch_env(family, [tasks[i] for i in task])
    team = models.team(seeds, adapt, agent_mask=env.agent_mask)
    exists = env.agent_mask  # rows of what agents live through are numbered as in this mask
    expert = np.full((exists.sum(), adapt.episodes, family.max_steps), -1, np.int64)
    try:
        for episode in tqdm(range(adapt.episodes), desc=f"{fit}: runs", unit="episode"):
            labels = _Labels(family, env, [[s, Stream.PRACTICE_LABELS, episode] for s in seeds])
            resets = [
                int(np.random.default_rng([s, Stream.PRACTICE_RESET, episode]).integers(2**31))
                for s in seeds
            ]
            play_episode(team, env, resets, labels)
            expert[:, episode] = labels.chosen[exists]
    finally:
        env.close()
    stored = team.online.trajectories
    trajectories = stored.take(np.s_[:, : adapt.episodes])
    PracticeRuns(trajectories, expert, task[np.nonzero(exists)[0]]).save(path)


class _Labels:
    """What the best behaviour policy would do at each step of one episode in each run.

    Args:
        seeds: Seed of the policy in each run.

    Attributes:
        chosen: (R, N, T) int64, -1 where nothing legal was chosen.
    """

    def __init__(self, family: TaskFamily, env: BatchEnv, seeds: list[list[int]]) -> None:
        policy = labelling_policy(family)
        assert policy is not None  # a practice without one is refused
        self._env, self._choose = env, chooser(family, policy, env)
        self._rngs = [np.random.default_rng(seed) for seed in seeds]
        self.chosen = np.full((*env.agent_mask.shape, family.max_steps), -1, np.int64)

    def __call__(self, t: int, step: BatchStep) -> None:
        for b in np.flatnonzero(~step.done).tolist():
            actions = self._choose(b, step, self._rngs[b])
            roster = self._env.rosters[b]
            self.chosen[b, :, t] = legal_labels(actions, roster, step.action_mask[b])
