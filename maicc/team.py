"""The decentralised team: each agent embeds its own prefix, looks it up, and acts on what it finds.

Many runs act in lock step for speed only. A row is one agent of one run. Nothing passes from row
to row: a row's actions depend on its own observations, actions, team rewards and end of episode,
on its own memory, and on its own random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from maicc.config import MemoryConfig, check_choices
from maicc.contexts import ContextCache
from maicc.decision import DecisionTransformer
from maicc.embedding import Embedding, RunningPrefix
from maicc.memory import BlendedMemory, OfflineMemory, OnlineMemory, schedule
from maicc.returns import completed, normalised, return_to_go
from maicc.types import Spec, Trajectories, UserError


class Team:
    """N agents in each of R runs, with parameters frozen.

    Args:
        spec: Sizes of the task family.
        embedding: Trained; only its student is used.
        decision: Trained.
        offline: The dataset with its keys.
        memory: What is remembered and looked up.
        seeds: One per run.
        episodes: Planned number of adaptation episodes; schedules `decay` and `fixed` need it.
        agents: Which agents of the team these are; all by default.
        agent_mask: (R, agents of the largest team) bool, False where a team is smaller; all True by
            default.
        device: Where the networks run.
    """

    def __init__(
        self,
        spec: Spec,
        embedding: Embedding,
        decision: DecisionTransformer,
        offline: OfflineMemory,
        memory: MemoryConfig,
        seeds: Sequence[int],
        *,
        episodes: int | None = None,
        agents: Sequence[int] | None = None,
        agent_mask: np.ndarray | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        if memory.schedule != "evidence" and not episodes:
            raise UserError(
                f"schedule {memory.schedule} needs the number of episodes in advance; give it, or "
                "set memory.schedule=evidence"
            )
        k = decision.config.k
        if k > min(memory.candidates, len(offline)):
            raise UserError(
                f"k={k} trajectories can't be chosen from {memory.candidates} candidates among "
                f"{len(offline)} stored; raise memory.candidates or use a larger dataset"
            )
        check_choices(memory, "memory")
        self.spec, self.config, self.episodes = spec, memory, episodes
        self.embedding = embedding.to(device).eval()
        self.decision = decision.to(device).eval()
        self.device = torch.device(device)
        self.seeds = list(seeds)
        self.agents = list(range(spec.n_agents)) if agents is None else list(agents)
        self.R, self.N = len(self.seeds), len(self.agents)
        shape = (self.R, spec.n_agents)
        there = np.ones(shape, bool) if agent_mask is None else np.asarray(agent_mask, bool)
        if there.shape != shape or not there[:, self.agents].any(1).all():
            raise UserError(f"agent_mask must be {shape}, with an agent in every run")
        self._team_size = there.sum(1)
        self._run, self._column = np.nonzero(there[:, self.agents])  # of each row
        rows = len(self._run)
        online = OnlineMemory(
            rows, spec.max_steps, embedding.config.width, spec.observation_size, memory.max_episodes
        )
        self.memory = BlendedMemory(
            offline, online, k, memory.candidates, memory.alpha, memory.score, memory.margin
        )
        self.cache = ContextCache(self.decision, self.memory, memory.cache_gib)
        self.offline_share = 0.0  # of the running episode's look-ups
        self._prefix: RunningPrefix | None = None
        self._awaits_observe = False

    @property
    def episode(self) -> int:
        """Adaptation episodes that are over."""
        return self.memory.online.history.shape[1]

    @property
    def returns(self) -> np.ndarray:
        """Team returns so far: (R, episodes)."""
        first = np.unique(self._run, return_index=True)[1]  # a row of each run
        low, high = self.spec.return_min, self.spec.return_max
        return low + self.memory.online.history[first] * (high - low)

    def act(self, observations: np.ndarray, action_mask: np.ndarray) -> np.ndarray:
        """Every agent's action.

        Args:
            observations: (R, N, O), or (N, O) for a single run.
            action_mask: (R, N, A) or (N, A), True where legal.

        Returns:
            (R, N) or (N,) int64. Agents that are not there, and runs whose episode has ended, get
            action 0, which is not meant to be played, until all runs have ended and the next
            episode starts.

        Raises:
            UserError: the arrays are not of the trained sizes.
        """
        lead = (self.R, self.N) if np.ndim(observations) == 3 else (self.N,)
        if np.ndim(observations) == 2 and self.R != 1:
            raise UserError(f"{self.R} runs act together: observations must be (R, N, O)")
        for name, array, size in (
            ("observations", observations, self.spec.observation_size),
            ("action_mask", action_mask, self.spec.n_actions),
        ):
            if np.shape(array) != (*lead, size):
                raise UserError(f"{name} has shape {np.shape(array)}, expected {(*lead, size)}")
        if self._awaits_observe:
            raise UserError("act was called twice: report what followed with observe in between")
        if not np.isfinite(observations).all():
            raise UserError("observations must be finite; one is NaN or infinite")
        if self._prefix is None:
            self._begin_episode()
        t = self._step
        if t >= self.spec.max_steps:
            raise UserError(f"step {t}: episodes of {self.spec.family} have {t} steps; pass done")
        now = self._now
        now.observations[:, t] = self._rows(np.reshape(observations, (self.R, self.N, -1)))
        now.return_to_go[:, t] = self._each_agent(self.spec.return_max - self._so_far)
        query = self._prefix.query(
            self._tensor(now.observations[:, t]), self._tensor(now.return_to_go[:, t])
        )
        self._keys[:, t] = query.cpu().numpy()
        active = np.flatnonzero(self._each_agent(~self._ended))
        legal = np.reshape(np.asarray(action_mask, bool), (self.R, self.N, -1))
        legal = self._rows(legal)[active]
        if not legal.any(1).all():
            raise UserError("action_mask allows an agent no action; leave at least one legal")
        actions = np.zeros((self.R, self.N), np.int64)
        chosen = self._choose(self._decide(active), legal, active)
        actions[self._run[active], self._column[active]] = chosen
        self._awaits_observe = True
        return actions.reshape(lead)

    def observe(
        self, actions: np.ndarray, rewards: np.ndarray | float, done: np.ndarray | bool
    ) -> None:
        """What followed: actions (R, N) played, team rewards (R,), end of episode (R,).

        A single run may pass (N,), a number and a truth value. When every run has ended, all agents
        store what they lived through, and the next `act` starts a new episode.
        """
        if not self._awaits_observe:
            raise UserError("observe was called before act: every step starts with act")
        t, now = self._step, self._now
        was_active = ~self._ended
        rewards = np.reshape(np.asarray(rewards, np.float32), self.R)
        if not np.isfinite(rewards[was_active]).all():
            raise UserError(f"team reward is {rewards} at step {t}: rewards must be finite")
        rewards = np.where(was_active, rewards, 0.0).astype(np.float32)
        self._so_far += rewards
        self._ended |= np.reshape(np.asarray(done, bool), self.R)
        full = completed(self._so_far, self._ended, self.spec.bounds)
        step = (
            self._rows(np.reshape(actions, (self.R, self.N))),
            self._each_agent(rewards),
            self._each_agent(self._ended.astype(np.float32)),
            self._each_agent(full.astype(np.float32)),
        )
        now.actions[:, t], now.rewards[:, t], now.done[:, t], now.completed[:, t] = step
        now.step_mask[:, t] = self._each_agent(was_active)
        self._prefix.advance(*(self._tensor(part) for part in step))
        self._step += 1
        self._awaits_observe = False
        if self._ended.all():
            self._store_episode()

    def _begin_episode(self) -> None:
        spec, rows, T = self.spec, len(self._run), self.spec.max_steps
        self._prefix, self._step = RunningPrefix(self.embedding), 0
        self._so_far = np.zeros(self.R)
        self._ended = np.zeros(self.R, bool)
        self._keys = np.zeros((rows, T, self.embedding.config.width), np.float32)
        self._now = Trajectories(
            observations=np.zeros((rows, T, spec.observation_size), np.float32),
            actions=np.zeros((rows, T), np.int64),
            rewards=np.zeros((rows, T), np.float32),
            done=np.zeros((rows, T), np.float32),
            completed=np.zeros((rows, T), np.float32),
            return_to_go=np.zeros((rows, T), np.float32),
            step_mask=np.zeros((rows, T), bool),
        )
        # each agent's own random numbers: coin, ties, sampling or not, action, and k for controls
        self._draws = np.stack(
            [
                np.random.default_rng([self.seeds[run], self.agents[column], self.episode]).random(
                    (T, 5 + self.memory.k)
                )
                for run, column in zip(self._run, self._column, strict=True)
            ]
        )
        c = self.config
        if c.schedule == "evidence":
            first = np.unique(self._run, return_index=True)[1]  # a row of each run
            latest = slice(max(self.episode - c.window, 0), self.episode)
            own = self.memory.online.history[first, latest]
            best_offline = float(self.memory.offline.team_return.max())
            goal = 1.0 if c.goal == "maximum" else max(best_offline, 1e-3)
            mixture = schedule.evidence(own.max(1, initial=0.0), goal, c.floor)
        elif c.schedule == "decay":
            mixture = schedule.decay(self.episode, self.episodes, c.decay, self.R)
        else:
            mixture = schedule.fixed(c.beta, self.episode, self.episodes, self.R)
        self._mixture = schedule.Mixture(*(self._each_agent(part) for part in mixture))
        self._asked = np.zeros(2)

    def _decide(self, active: np.ndarray) -> np.ndarray:
        """Logits (Q, A) of the active rows at the running step."""
        t, k = self._step, self.memory.k
        current = self._now.take(active)
        current = Trajectories(*(self._tensor(part[:, : t + 1]) for part in current))
        draws = self._draws[active, t]
        coin = self._draws[active, 0 if self.config.toss == "episode" else t, 0]
        ask_offline = coin < self._mixture.offline[active]
        with torch.no_grad():
            if k == 0:
                logits = self.decision.decide(current, None, None, last=True)[:, 0]
                return logits.double().cpu().numpy()
            found = self.memory.retrieve(
                active, t, self._keys[active, t], ask_offline, draws[:, 1], draws[:, 5:]
            )
            self._asked += found.offline.sum(), len(active)
            logits = self.cache.decide(current, active, found)
        return logits.double().cpu().numpy()

    def _choose(self, logits: np.ndarray, legal: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Samples or takes the best legal action."""
        draws = self._draws[active, self._step]
        logits = np.where(legal, logits, -np.inf)
        p = np.exp(logits - logits.max(1, keepdims=True))
        total = p.cumsum(1)
        sampled = (total <= draws[:, 3:4] * total[:, -1:]).sum(1)
        explore = draws[:, 2] < self._mixture.sample[active]
        return np.where(explore, sampled, logits.argmax(1))

    def _store_episode(self) -> None:
        spec = self.spec
        now = self._now._replace(return_to_go=return_to_go(self._now.rewards))
        predicted = self.embedding.keys(Trajectories(*(self._tensor(part) for part in now)))
        individual = predicted.individual_reward.sum(1).cpu().numpy()
        low, high = spec.bounds
        places = self.memory.online.store(
            predicted.vectors.cpu().numpy(),  # with the true return-to-go, as offline
            now,
            (now.return_to_go[:, 0] - low) / (high - low),  # not clipped: it may beat all data
            normalised(individual * self._each_agent(self._team_size), low, high),
            self._draws[:, 0, 4],
        )
        self.cache.forget(places)
        self.offline_share = float(self._asked[0] / max(self._asked[1], 1))
        self._prefix = None

    def _each_agent(self, per_run: np.ndarray) -> np.ndarray:
        """(R,) -> (rows,)"""
        return per_run[self._run]

    def _rows(self, per_agent: np.ndarray) -> np.ndarray:
        """(R, N, ...) -> (rows, ...)"""
        return per_agent[self._run, self._column]

    def _tensor(self, array: np.ndarray) -> Tensor:
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def state(self, episodes: int) -> dict[str, np.ndarray]:
        """What a team needs to go on after that many episodes, as plain arrays."""
        return self.memory.online.state(episodes)

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        self.memory.online.load_state(state)
        self.cache.clear()
