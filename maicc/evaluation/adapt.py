"""Adaptation: episodes on unseen tasks, many runs in lock step, parameters frozen."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from tqdm import tqdm

from maicc.baselines import method_of
from maicc.baselines.method import Trained
from maicc.config import AdaptConfig
from maicc.data.dataset import EpisodeFile
from maicc.envs import BatchEnv, BatchStep, TaskFamily, batch_env, get_family
from maicc.evaluation.run_folder import opened
from maicc.evaluation.stats import summary
from maicc.evaluation.traces import SUFFIX, Tracer
from maicc.files import locked, read_arrays, require_new, require_writable, write_arrays, write_json
from maicc.streams import Stream
from maicc.teams.lockstep import LockStepTeam
from maicc.teams.lookups import DIAGNOSTICS, as_json, nearest_tasks
from maicc.types import OutsideError, Task, UserError

SCHEMA = 1
_SAVE_EVERY_SECONDS = 20.0


def play_episode(
    team: LockStepTeam,
    env: BatchEnv,
    seeds: Sequence[int],
    watch: Callable[[int, BatchStep], object] = lambda t, step: None,
    tracer: Tracer | None = None,
) -> np.ndarray:
    """Plays one adaptation episode of every run and gives the team returns (R,).

    The episode is played again if an environment breaks off. If it breaks off twice in a row, the
    environment raises an error.

    Args:
        watch: Function that is shown what the agents see, before each step.
        tracer: Writes down what some of the runs do.
    """
    step, t = env.reset(seeds), 0
    if tracer is not None:
        tracer.start(seeds)
    returns = np.zeros(len(env.envs))
    while not step.done.all():
        watch(t, step)
        actions = team.act(step.observations, step.action_mask, step.alive)
        if tracer is not None:
            tracer.acted(t, step, actions)
        step = env.step(actions)
        if env.crashed.any():
            team.abandon()
            return play_episode(team, env, seeds, watch, tracer)
        if tracer is not None:
            tracer.observed(t, step.rewards)
        team.observe(actions, step.rewards, step.done)
        returns += step.rewards
        t += 1
    return returns


class _Adaptation:
    """Teams on their way through an adaptation, and their results so far.

    Args:
        state_file: File of the state after an interruption, to go on from; None writes none.
        traces: Number of runs that are traced.
    """

    def __init__(
        self,
        models: Trained,
        family: TaskFamily,
        tasks: Sequence[Task],
        config: AdaptConfig,
        seed: int,
        state_file: Path | None,
        traces: int = 0,
    ) -> None:
        self.config, self.seed, self.state_file = config, seed, state_file
        self.n_traced = min(traces, len(tasks))
        self.seeds = [seed * 1000 + i for i in range(len(tasks))]
        self.env = batch_env(family, tasks)
        try:
            self._begin(models, family, tasks)
        except BaseException:
            self.env.close()
            raise

    def _begin(self, models: Trained, family: TaskFamily, tasks: Sequence[Task]) -> None:
        """Makes the teams, or takes over the state of those that were interrupted."""
        config, seed, state_file = self.config, self.seed, self.state_file
        self.team = models.team(self.seeds, config, agent_mask=self.env.agent_mask)
        self.nearest = nearest_tasks(family, tasks, models.tasks)
        low, high = models.spec.bounds
        self.return_range = high - low
        self.returns = np.zeros((len(tasks), config.episodes))
        self.retrieval = np.full((len(DIAGNOSTICS), config.episodes), np.nan)
        self.finished = 0
        self.tracer = self._tracer(family, tasks) if self.n_traced else None
        plan = [models.content, config.identity(), seed, [task.to_json() for task in tasks]]
        if self.n_traced:
            plan.append(self.n_traced)
        self.identity = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()
        if state_file is not None and state_file.exists():
            self._restore(state_file)

    def _restore(self, state_file: Path) -> None:
        """Takes over the state of an interrupted adaptation.

        Raises:
            UserError: it is damaged, or follows from other models, settings or tasks.
        """
        state = read_arrays(state_file)
        if str(state["identity"]) != self.identity:
            raise UserError(
                f"{state_file} keeps an interrupted adaptation with other models or settings, of "
                "which adapt.traces is one; "
                "remove it, or go on with the settings it was begun with"
            )
        self.team.load_state(state)
        self.finished = self.team.episode
        self.returns[:, : self.finished] = state["returns"]
        self.retrieval[:, : self.finished] = state["retrieval"]
        if self.tracer is not None:
            self.tracer.load_state(state)

    def _tracer(self, family: TaskFamily, tasks: Sequence[Task]) -> Tracer:
        n = self.n_traced
        told = {
            "family": family.name,
            "tasks": [task.to_json() for task in tasks[:n]],
            "rosters": [list(map(str, roster)) for roster in self.env.rosters[:n]],
            "seeds": self.seeds[:n],
        }
        return Tracer(self.team, n, self.config.episodes, told)

    def play(self, episode: int) -> np.ndarray:
        """Plays the next episode in all runs and gives their returns (R,)."""
        resets = [
            int(np.random.default_rng([seed, Stream.ADAPT_RESET, episode]).integers(2**31))
            for seed in self.seeds
        ]
        self.returns[:, episode] = play_episode(self.team, self.env, resets, tracer=self.tracer)
        if self.team.lookups is not None:
            self.retrieval[:, episode] = self.team.lookups.diagnostics(
                self.nearest, self.return_range
            )
        self.finished = episode + 1
        return self.returns[:, episode]

    def keep(self) -> None:
        """Writes the state after the last finished episode."""
        memory = getattr(self.config, "memory", None)
        if memory is not None and memory.max_episodes and self.team.episode != self.finished:
            return  # interrupted while the episode was stored: the file of before stays
        if self.state_file is not None and self.finished:
            arrays: dict[str, Any] = {
                **self.team.state(self.finished),
                "identity": np.array(self.identity),
                "returns": self.returns[:, : self.finished],
                "retrieval": self.retrieval[:, : self.finished],
                **(self.tracer.state(self.finished) if self.tracer else {}),
            }
            write_arrays(self.state_file, arrays)


def adapt(
    models: Trained,
    family: TaskFamily,
    tasks: Sequence[Task],
    config: AdaptConfig,
    seed: int,
    state_file: Path | None = None,
    label: str = "adapt",
    traces: Path | None = None,
) -> dict[str, Any]:
    """Adapts one team to each task and returns the result as plain JSON.

    Args:
        models: Trained networks for this family.
        tasks: One per run.
        config: The method's options of adaptation.
        seed: Run i plays with seed `seed * 1000 + i`.
        state_file: File in which the state is kept from time to time, so that an interrupted
            adaptation goes on; None keeps none.
        label: Name of the progress bar.
        traces: File of the trace of the first `config.traces` runs; None traces none.

    Raises:
        UserError: no episodes or no tasks, an environment breaks the contract, or a return is
            outside the family's bounds.
    """
    if config.episodes < 1 or not tasks:
        raise UserError("adapt.episodes and adapt.runs must be at least 1")
    family.require_rosters(models.rosters)
    traced = config.traces if traces is not None else 0
    state = _Adaptation(models, family, tasks, config, seed, state_file, traced)
    last_saved = time.monotonic()
    first = state.finished
    with tqdm(desc=label, unit="episode", total=config.episodes, initial=first) as bar:
        try:
            for episode in range(first, config.episodes):
                returns = state.play(episode)
                family.require_within(returns, f"{family.name}, episode {episode}")
                bar.update()
                bar.set_postfix({"return": f"{returns.mean():.2f}"}, refresh=False)
                if time.monotonic() - last_saved > _SAVE_EVERY_SECONDS:
                    state.keep()
                    last_saved = time.monotonic()
        except (KeyboardInterrupt, OutsideError):
            state.keep()
            raise
        finally:
            state.env.close()
    if state.tracer is not None and traces is not None:
        state.tracer.write(traces)
    return _result(family, tasks, state)


def _result(family: TaskFamily, tasks: Sequence[Task], state: _Adaptation) -> dict[str, Any]:
    """Makes the content of the result file, without seconds."""
    held_out = {json.dumps(task.to_json()) for task in family.held_out_tasks}
    return {
        "schema": SCHEMA,
        "family": family.name,
        "episodes": state.config.episodes,
        "runs": [
            {
                "task": task.to_json(),
                "held_out": json.dumps(task.to_json()) in held_out,
                "seed": seed,
                "returns": [round(float(r), 6) for r in run],
            }
            for task, seed, run in zip(tasks, state.seeds, state.returns, strict=True)
        ],
        "summary": {name: round(value, 6) for name, value in summary(state.returns).items()},
        "retrieval": as_json(state.retrieval),
    }


def adapt_folder(
    folder: Path,
    config: AdaptConfig,
    seed: int,
    out: Path,
    device: str = "auto",
    *,
    held_out: bool = True,
    label: str = "adapt",
    seconds: Mapping[str, float] = MappingProxyType({}),
) -> None:
    """Adapts teams of the models in `folder` and writes the result to `out`.

    After an interruption the same call goes on where it stopped.

    Args:
        folder: Folder of a run, or a bundle.
        config: The method's options of adaptation.
        seed: Every random choice follows from it.
        out: Result file.
        held_out: Adapt to held-out tasks; else to training tasks.
        label: Name of the progress bar, and of the seconds of this call.
        seconds: Seconds of the stages before, with those of this one in calls that were
            interrupted.

    Raises:
        UserError: a file of the models is missing or damaged, the family has other training tasks
            now, or `out` is there already.
    """
    with opened(folder) as (run, files):
        dataset = EpisodeFile(files.episodes)
        family = get_family(dataset.spec.family)
        dataset.require_family(family)
        models = method_of(run.method).load(run, files, family.spec, device)
    require_writable(out)
    n = config.runs if held_out else config.training_runs
    tasks = family.draw_tasks(n, seed, held_out=held_out)
    state_file = out.with_suffix(".part.npz")
    traces = out.with_name(f"{out.stem}{SUFFIX}") if held_out else None
    with locked(out):
        require_new(out)
        start = time.monotonic()
        result = adapt(models, family, tasks, config, seed, state_file, label, traces)
        took = round(seconds.get(label, 0.0) + time.monotonic() - start, 2)
        write_json(out, {**result, "seconds": {**seconds, label: took}})
        state_file.unlink(missing_ok=True)
    s = result["summary"]
    print(
        f"{out}: {n} runs, mean return {s['first3']:.2f} in the first 3 episodes, "
        f"{s['last10']:.2f} +- {s['ci95']:.2f} in the last 10"
    )
