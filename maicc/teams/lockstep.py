"""Decentralised agents that act side by side: the common part of every method's team.

Many runs act in lock step, for speed only. A row is one agent of one run. Nothing passes from row
to row: a row's actions depend on its own observations, actions, team rewards and end of episode,
on its own memory, and on its own random numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maicc.data.alive import alive_up_to_last, cut_at_death
from maicc.data.returns import COMPLETION_MARGIN, completed, return_to_go
from maicc.memory import OnlineMemory, schedule
from maicc.streams import Stream
from maicc.teams.choices import Choices, Draws, sample, sample_alike
from maicc.teams.lookups import LookupStats
from maicc.types import Retrieval, Spec, Trajectories, UserError

_REPLAYED = 32  # own trajectories, the latest that reached the goal, which are looked through


class EpisodeKeys(NamedTuple):
    """Keys of an episode for each row, which a method keeps besides the trajectories."""

    keys: np.ndarray  # (rows, T, D)
    individual_return: np.ndarray  # (rows,) in [0, 1] on the family's scale


class LockStepTeam(ABC):
    """N agents in each of R runs, with parameters frozen.

    Attributes:
        k: Trajectories that are retrieved in each step.
        record: Most episodes of a record.

    Args:
        spec: Sizes of the task family.
        seeds: One per run.
        agents: Which agents of the team these are; all by default.
        agent_mask: (R, agents of the largest team) bool, False where a team is smaller; all True by
            default.
        device: Where the networks run.
        key_width: Numbers of a key that a method keeps for each step.
        max_episodes: Episodes an agent keeps; 0 is all.
        draws: Random numbers a method needs in each step, besides those that `Draws` names.
        shared_draws: Whether all agents of a run draw the same numbers, from the run's seed, which
            they know before they play; else each has numbers of its own.
        redraw: Numbers are drawn anew at each `step`, or once per `episode`.
    """

    k = 0
    record = 0

    def __init__(
        self,
        spec: Spec,
        seeds: Sequence[int],
        *,
        agents: Sequence[int] | None = None,
        agent_mask: np.ndarray | None = None,
        device: str | torch.device = "cpu",
        key_width: int = 0,
        max_episodes: int = 0,
        draws: int = 0,
        shared_draws: bool = False,
        redraw: str = "step",
    ) -> None:
        self.spec, self.device = spec, torch.device(device)
        self.seeds = list(seeds)
        self.agents = list(range(spec.n_agents)) if agents is None else list(agents)
        self.R, self.N = len(self.seeds), len(self.agents)
        shape = (self.R, spec.n_agents)
        mask = np.ones(shape, bool) if agent_mask is None else np.asarray(agent_mask, bool)
        if mask.shape != shape or not mask[:, self.agents].any(1).all():
            raise UserError(f"agent_mask must be {shape}, with an agent in every run")
        self._team_size = mask.sum(1)
        self._run, self._column = np.nonzero(mask[:, self.agents])  # of each row
        self._first = np.unique(self._run, return_index=True)[1]  # a row of each run
        self.online = OnlineMemory(
            len(self._run), spec.max_steps, key_width, spec.observation_size, max_episodes
        )
        # team return on the family's scale that is striven for, None for a run's own best one, and
        # whether actions are repeated that reached it
        self.goal: float | None = 1.0
        self.replay = False
        self.lookups: LookupStats | None = None  # in the last episode, where a method retrieves
        # for traces: how the last step's actions came about, the slots (rows, C) of the record, and
        # who retrieved what in the last step
        self.choices: Choices | None = None
        self.shown = np.zeros((len(self._run), 0), np.int64)
        self.retrieved: tuple[np.ndarray, Retrieval] | None = None
        self.traced = np.zeros(0, np.int64)  # rows whose logits are always wanted
        self._n_draws, self._shared_draws, self._redraw = draws, shared_draws, redraw
        self._targets = _targets(spec)
        self._running = False  # an episode
        self._awaits_observe = False

    @abstractmethod
    def on_episode_start(self) -> None:
        """Prepares for an episode: `_now`, `_draws` and `episode` are set already."""

    @abstractmethod
    def logits(self, active: np.ndarray) -> np.ndarray:
        """Logits (Q, A) of the `active` rows (Q,) at the running step."""

    def wanted(self, active: np.ndarray, repeats: np.ndarray) -> np.ndarray:
        """Marks the `active` rows (Q,) whose logits are computed: all of them by default.

        Args:
            repeats: (Q,) bool, rows that repeat an own action, whatever their logits are.
        """
        return np.ones(len(active), bool)

    @abstractmethod
    def sampling(self) -> np.ndarray | float:
        """Probability, for each row, that the action is sampled; else the best one is taken."""

    def best_of_latest(self, window: int) -> np.ndarray:
        """Finds the best team return of the latest episodes (rows,), on the family's scale."""
        return self.online.history[:, -window:].max(1, initial=0.0)

    def until_goal(self, window: int, floor: float) -> schedule.Mixture:
        """Samples until the goal is reached; `window` and `floor` are those of the schedule."""
        if self.goal is None:
            return schedule.until_settled(self.online.history, window, floor, COMPLETION_MARGIN)
        best = self.best_of_latest(window)
        return schedule.until_solved(best, self.goal, floor, COMPLETION_MARGIN)

    def replayable(self) -> np.ndarray:
        """Finds slots (rows, n) of the latest own trajectories that reached the goal.

        A run whose goal is its own best return has reached it if that is above the lowest.
        """
        if not self.replay:
            return np.zeros((len(self._run), 0), np.int64)
        if self.goal is None:
            best = self.online.history.max(1, initial=0.0)
            least = np.where(best > COMPLETION_MARGIN, best - COMPLETION_MARGIN, np.inf)
        else:
            least = np.full(len(self._run), self.goal * (1.0 - COMPLETION_MARGIN))
        return self.online.latest(least, _REPLAYED)

    def on_step(self, step: Trajectories) -> None:  # noqa: B027 - most methods need nothing
        """Takes in a step that is over: its action, rewards, done, completed, (rows,) each."""

    def make_keys(self, trajectories: Trajectories) -> EpisodeKeys:
        """Makes keys of an episode that is over, of its trajectories (rows, T, ...)."""
        rows = len(self._run)
        return EpisodeKeys(np.zeros((rows, self.spec.max_steps, 0), np.float32), np.zeros(rows))

    def on_stored(self, places: np.ndarray) -> None:  # noqa: B027
        """Takes in the places (rows,) at which the trajectories were stored."""

    def rows_of(self, runs: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Finds the rows of these runs, and of each row the place of its run and its agent."""
        rows = np.flatnonzero(np.isin(self._run, runs))
        return rows, np.searchsorted(runs, self._run[rows]), self._column[rows]

    @property
    def episode(self) -> int:
        """Number of adaptation episodes that are over."""
        return self.online.history.shape[1]

    @property
    def returns(self) -> np.ndarray:
        """Team returns so far: (R, episodes)."""
        low, high = self.spec.bounds
        return low + self.online.history[self._first] * (high - low)

    def act(
        self,
        observations: np.ndarray,
        action_mask: np.ndarray,
        alive: np.ndarray | None = None,
    ) -> np.ndarray:
        """Chooses every agent's action.

        Args:
            observations: (R, N, O), or (N, O) for a single run.
            action_mask: (R, N, A) or (N, A), True where legal.
            alive: (R, N) or (N,), False of agents that are dead or have left; all True by default.

        Returns:
            (R, N) or (N,) int64. Agents that are not there, and runs whose episode has ended, get
            action 0, which is not meant to be played, until all runs have ended and the next
            episode starts.

        Raises:
            UserError: the arrays are not of the trained sizes.
        """
        self._check_arrays(observations, action_mask, alive)
        if not self._running:
            self._begin_episode()
        t = self._step
        if t >= self.spec.max_steps:
            raise UserError(f"step {t}: episodes of {self.spec.family} have {t} steps; pass done")
        trajectories = self._now
        trajectories.observations[:, t] = self._rows(np.reshape(observations, (self.R, self.N, -1)))
        still_missing = self.spec.bounds[1] - self._so_far  # (R,)
        trajectories.return_to_go[:, t] = self._each_agent(still_missing)
        active = np.flatnonzero(self._each_agent(~self._ended))
        legal = np.reshape(np.asarray(action_mask, bool), (self.R, self.N, -1))
        legal = self._rows(legal)[active]
        if not legal.any(1).all():
            raise UserError("action_mask allows an agent no action; leave at least one legal")
        if alive is not None:
            self._alive[:, t] = self._rows(np.reshape(np.asarray(alive, bool), (self.R, self.N)))
        chosen = legal.argmax(1)
        self.choices = Choices.none(len(self._run), self.spec.n_actions)
        self.choices.probability[active] = legal
        free = legal.sum(1) > 1  # an agent with one legal action, as the dead have, takes it
        free |= ~free.any()  # a method follows every step, also where nobody has a choice
        chosen[free] = self._choose(legal[free], active[free])
        actions = np.zeros((self.R, self.N), np.int64)
        actions[self._run[active], self._column[active]] = chosen
        self._awaits_observe = True
        return actions.reshape((self.R, self.N) if np.ndim(observations) == 3 else (self.N,))

    def _check_arrays(
        self, observations: np.ndarray, action_mask: np.ndarray, alive: np.ndarray | None
    ) -> None:
        """Checks the arrays of `act`, and that it is time to act.

        Raises:
            UserError: an array has another shape, an observation is not finite, or `observe` was
                left out.
        """
        lead = (self.R, self.N) if np.ndim(observations) == 3 else (self.N,)
        if np.ndim(observations) == 2 and self.R != 1:
            raise UserError(f"{self.R} runs act together: observations must be (R, N, O)")
        for name, array, shape in (
            ("observations", observations, (*lead, self.spec.observation_size)),
            ("action_mask", action_mask, (*lead, self.spec.n_actions)),
            ("alive", alive, lead),
        ):
            if array is not None and np.shape(array) != shape:
                raise UserError(f"{name} has shape {np.shape(array)}, expected {shape}")
        if self._awaits_observe:
            raise UserError("act was called twice: report what followed with observe in between")
        if not np.isfinite(_single(observations)).all():
            raise UserError("observations must be finite; one is NaN or infinite")

    def observe(
        self, actions: np.ndarray, rewards: np.ndarray | float, done: np.ndarray | bool
    ) -> None:
        """Takes in what followed the last `act`.

        When every run has ended, all agents store their trajectories, and the next `act` starts a
        new episode.

        Args:
            actions: (R, N) played; a single run may pass (N,).
            rewards: (R,) of the team; a single run may pass a number.
            done: (R,) end of the episode; a single run may pass a truth value.

        Raises:
            UserError: `act` was left out, a reward is not finite, an action is not one of the
                family's, or an array has another size.
        """
        if not self._awaits_observe:
            raise UserError("observe was called before act: every step starts with act")
        self._check_followed(actions, rewards, done)
        t, trajectories = self._step, self._now
        was_active = ~self._ended
        rewards = np.where(was_active, _single(rewards).reshape(self.R), np.float32(0))
        self._so_far += rewards
        self._ended |= np.reshape(np.asarray(done, bool), self.R)
        at_maximum = completed(self._so_far, self._ended, self.spec.bounds)
        trajectories.actions[:, t] = self._rows(np.reshape(actions, (self.R, self.N)))
        trajectories.rewards[:, t] = self._each_agent(rewards)
        trajectories.done[:, t] = self._each_agent(self._ended)
        trajectories.completed[:, t] = self._each_agent(at_maximum)
        trajectories.step_mask[:, t] = self._each_agent(was_active)
        self.on_step(trajectories.take(np.s_[:, t]))
        self._step += 1
        self._awaits_observe = False
        if self._ended.all():
            self._store_episode()

    def _check_followed(self, actions: Any, rewards: Any, done: Any) -> None:
        """Checks the arrays of `observe`, where a run goes on.

        Raises:
            UserError: one has another size, an action is none of the family's, or a reward is not
                finite.
        """
        for name, array, size in (
            ("actions", actions, self.R * self.N),
            ("rewards", rewards, self.R),
            ("done", done, self.R),
        ):
            if np.size(array) != size:
                raise UserError(f"{name} has {np.size(array)} numbers, expected {size}")
        played, last = np.reshape(actions, (self.R, self.N)), self.spec.n_actions - 1
        unknown = self._rows((played < 0) | (played > last)) & self._each_agent(~self._ended)
        if unknown.any():
            raise UserError(f"actions are {actions}, expected numbers from 0 to {last}")
        if not np.isfinite(_single(rewards).reshape(self.R)[~self._ended]).all():
            raise UserError(
                f"team reward is {rewards} at step {self._step}: rewards must be finite"
            )

    def abandon(self) -> None:
        """Drops the running episode and remembers nothing of it; the next `act` starts anew."""
        self._running = self._awaits_observe = False

    def _begin_episode(self) -> None:
        rows, T = len(self._run), self.spec.max_steps
        self._running, self._step = True, 0
        self._so_far = np.zeros(self.R)
        self._ended = np.zeros(self.R, bool)
        self._now = Trajectories.blank((rows, T), self.spec.observation_size)
        self._alive = np.ones((rows, T), bool)
        self._draws = self._draw()
        self._replayed = self.replayable()
        self.on_episode_start()

    def _draw(self) -> Draws:
        """Draws the episode's random numbers of each row."""
        rngs = [
            np.random.default_rng(
                [self.seeds[run], Stream.SHARED_DRAWS, self.episode]
                if self._shared_draws
                else [self.seeds[run], self.agents[column], self.episode]
            )
            for run, column in zip(self._run, self._column, strict=True)
        ]
        steps = self.spec.max_steps if self._redraw == "step" else 1
        targets = int(self._targets.max()) + 1 if self._shared_draws else 0
        columns = 5 + self._n_draws + targets
        numbers = np.stack([rng.random((steps, columns)) for rng in rngs])
        numbers = np.repeat(numbers, self.spec.max_steps // steps, axis=1)
        return Draws.from_columns(numbers, self._n_draws)

    def _choose(self, legal: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Samples a legal action, or takes the best: what was worth repeating, or the model's."""
        t, draws = self._step, self._draws
        samples = (
            draws.explore[active, t] < np.broadcast_to(self.sampling(), len(self._run))[active]
        )
        observations = self._now.observations[active, t]
        again, slot = self.online.repeat(active, self._replayed[active], t, observations)
        again = np.where(np.take_along_axis(legal, again[:, None], 1)[:, 0], again, -1)
        repeats = ~samples & (again >= 0)
        logits, wanted = np.zeros(legal.shape), self.wanted(active, repeats)
        with torch.no_grad():
            logits[wanted] = self.logits(active[wanted])
        logits = np.where(legal, logits, -np.inf)
        if self._shared_draws:
            sampled = sample_alike(logits, draws.target[active, t], self._targets)
        else:
            sampled = sample(logits, draws.action[active, t])
        p = np.exp(logits - logits.max(1, keepdims=True))
        best = np.where(again >= 0, again, logits.argmax(1))
        assert self.choices is not None
        self.choices.probability[active] = p / p.sum(1, keepdims=True)
        self.choices.sampled[active] = samples
        self.choices.repeated[active] = np.where(repeats, slot, -1)
        return np.where(samples, sampled, best)

    def _store_episode(self) -> None:
        """Cuts the trajectories at their agents' death, and stores them with the true returns."""
        trajectories = self._now._replace(return_to_go=return_to_go(self._now.rewards))
        alive = alive_up_to_last(self._alive & trajectories.step_mask)
        trajectories = cut_at_death(trajectories, alive)
        made, (low, high) = self.make_keys(trajectories), self.spec.bounds
        team_return = (trajectories.return_to_go[:, 0] - low) / (high - low)
        places = self.online.store(
            made.keys,
            trajectories,
            team_return,  # not clipped: it may beat all data
            made.individual_return,
            self._draws.order[:, 0],
        )
        self.on_stored(places)
        self._running = False

    def _each_agent(self, per_run: np.ndarray) -> np.ndarray:
        """Gives each agent the value of its run: (R,) -> (rows,)."""
        return per_run[self._run]

    def _rows(self, per_agent: np.ndarray) -> np.ndarray:
        """Picks the agents that are there: (R, N, ...) -> (rows, ...)."""
        return per_agent[self._run, self._column]

    def _tensors(self, arrays: Trajectories) -> Trajectories:
        return arrays.each(self._tensor)

    def _current(self, rows: np.ndarray, first: int = 0) -> Trajectories:
        """The running trajectories of these rows, from `first` to the running step, as tensors."""
        steps = slice(first, self._step + 1)
        return self._tensors(self._now.take(np.s_[rows, steps]))

    def _tensor(self, array: np.ndarray) -> Tensor:
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def state(self, episodes: int) -> dict[str, np.ndarray]:
        """State from which a team goes on after that many episodes, as plain arrays."""
        return self.online.state(episodes)

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Goes on from a `state`."""
        self.online.load_state(state)


def _single(numbers: Any) -> np.ndarray:
    """Numbers in single precision, in which those that are too large are infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(numbers, np.float32)


def _targets(spec: Spec) -> np.ndarray:
    """Numbers the target of each action, (A,): 0 without one; its own where none are known."""
    actions = np.arange(spec.n_actions)
    return actions if spec.layout is None else (actions - spec.layout.attack + 1).clip(0)
