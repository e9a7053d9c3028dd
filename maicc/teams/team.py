"""MAICC's team: each agent embeds its own prefix, looks it up, and acts on what it finds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from maicc.config import MemoryConfig, check_options
from maicc.data.returns import normalised
from maicc.memory import BlendedMemory, OfflineMemory, schedule
from maicc.models.decision import DecisionTransformer
from maicc.models.embedding import Embedding
from maicc.teams.context_cache import ContextCache
from maicc.teams.lockstep import EpisodeRecord, LockStepTeam
from maicc.teams.lookups import LookupStats
from maicc.teams.running import EpisodeEncoder, RunningPrefix
from maicc.types import Spec, Trajectories, UserError


class Team(LockStepTeam):
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
        check_options(memory, "memory")
        super().__init__(
            spec, seeds, agents=agents, agent_mask=agent_mask, device=device,
            key_width=embedding.config.width if k else 0, most=memory.max_episodes, draws=k,
        )  # fmt: skip
        self.config, self.episodes = memory, episodes
        self.embedding = embedding.to(device).eval()
        self.decision = decision.to(device).eval()
        self.memory = BlendedMemory(
            offline, self.online, k, memory.candidates, memory.alpha, memory.score, memory.margin
        )
        self.cache = ContextCache(self.decision, self.memory, memory.cache_gib)

    def on_episode_start(self) -> None:
        self._prefix = RunningPrefix(self.embedding)
        reader = self.decision.encoders.observation
        self._seen = EpisodeEncoder(reader, len(self._run), self.spec.max_steps)
        c = self.config
        if c.schedule == "evidence":
            latest = slice(max(self.episode - c.window, 0), self.episode)
            own = self.online.history[self._first, latest]
            best_offline = float(self.memory.offline.team_return.max())
            goal = 1.0 if c.goal == "maximum" else max(best_offline, 1e-3)
            mixture = schedule.evidence(own.max(1, initial=0.0), goal, c.floor)
        elif c.schedule == "decay":
            mixture = schedule.decay(self.episode, self.episodes, c.decay, self.R)
        else:
            mixture = schedule.fixed(c.beta, self.episode, self.episodes, self.R)
        self._mixture = schedule.Mixture(*(self._each_agent(part) for part in mixture))
        self.lookups = LookupStats(self.R, int(self.memory.offline.task.max()) + 1)

    def logits(self, active: np.ndarray) -> np.ndarray:
        t, k, now = self._step, self.memory.k, self._now
        observations = self._tensor(now.observations[:, t])
        self._seen.add(observations)
        current, seen = self._current(active), self._seen.take(active)
        if k == 0:
            logits = self.decision.decide(current, seen, None, None, last=True)[:, 0]
            return logits.double().cpu().numpy()
        query = self._prefix.query(observations, self._tensor(now.return_to_go[:, t]))
        # coin, ties and, for a control, which trajectories
        draws = self._draws[active, t]
        coin = self._draws[active, 0 if self.config.toss == "episode" else t, 0]
        ask_offline = coin < self._mixture.offline[active]
        found = self.memory.retrieve(
            active, t, query.cpu().numpy()[active], ask_offline, draws[:, 1], draws[:, 5:]
        )
        self.lookups.add(self._run[active], found.offline, *self.memory.origin(active, found))
        return self.cache.decide(current, seen, active, found).double().cpu().numpy()

    def sampling(self) -> np.ndarray:
        return self._mixture.sample

    def on_step(self, step: Trajectories) -> None:
        if self.memory.k == 0:
            return
        parts = (step.actions, step.rewards, step.done, step.completed)
        self._prefix.advance(*(self._tensor(part) for part in parts))

    def record(self, now: Trajectories) -> EpisodeRecord:
        if self.memory.k == 0:
            return super().record(now)
        predicted = self.embedding.keys(self._tensors(now))
        individual = predicted.individual_reward.sum(1).cpu().numpy()
        return EpisodeRecord(
            predicted.vectors.cpu().numpy(),  # with the true return-to-go, as offline
            normalised(individual * self._each_agent(self._team_size), *self.spec.bounds),
        )

    def on_stored(self, places: np.ndarray) -> None:
        self.cache.forget(places)

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        super().load_state(state)
        self.cache.clear()
