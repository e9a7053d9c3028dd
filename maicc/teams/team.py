"""MAICC's team: each agent embeds its own prefix, looks it up, and acts on the trajectories."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from maicc.config import MemoryConfig, check_options
from maicc.data.returns import COMPLETION_MARGIN, normalised
from maicc.memory import BlendedMemory, OfflineMemory, schedule
from maicc.models.decision import DecisionTransformer, Past
from maicc.models.embedding import Embedding
from maicc.models.record import packed, transitions
from maicc.teams.context_cache import ContextCache
from maicc.teams.lockstep import EpisodeKeys, LockStepTeam
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
        memory: How the team remembers and looks up.
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
        if memory.schedule in ("decay", "fixed") and not episodes:
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
            key_width=embedding.config.width if k else 0, max_episodes=memory.max_episodes, draws=k,
        )  # fmt: skip
        self.config, self.episodes = memory, episodes
        self.embedding = embedding.to(device).eval()
        self.decision = decision.to(device).eval()
        self.memory = BlendedMemory(
            offline, self.online, k, memory.candidates, memory.alpha, memory.score, memory.margin
        )
        self.cache = ContextCache(self.decision, self.memory, memory.cache_gib)

    def on_episode_start(self) -> None:
        """Starts new prefixes, and sets the probability of asking the offline memory."""
        self._prefix = RunningPrefix(self.embedding)
        reader = self.decision.encoders.observation
        self._encoder = EpisodeEncoder(reader, len(self._run), self.spec.max_steps)
        mixture = self._mixture_of_runs()
        self._mixture = schedule.Mixture(
            self._each_agent(mixture.offline), self._each_agent(mixture.sample)
        )
        self._record = self._encode_record()
        self.lookups = LookupStats(self.R, int(self.memory.offline.task.max()) + 1)

    @torch.no_grad()
    def _encode_record(self) -> Past | None:
        """Encodes each row's past episodes, once for the whole episode."""
        n = self.decision.config.record
        if not n:
            return None
        slots = self.online.choose(n, self.config.alpha)
        row = np.arange(len(slots))[:, None]
        episodes = Trajectories(*(part[row, slots] for part in self.online.trajectories))
        return self.decision.encode_record(packed(transitions(self._tensors(episodes))))

    def _mixture_of_runs(self) -> schedule.Mixture:
        """Probabilities of each run in this episode, as the schedule gives them."""
        c = self.config
        if c.schedule in ("evidence", "until_solved"):
            latest = slice(max(self.episode - c.window, 0), self.episode)
            latest_returns = self.online.history[self._first, latest]
            best_offline = float(self.memory.offline.team_return.max())
            goal = 1.0 if c.goal == "maximum" else max(best_offline, 1e-3)
            best = latest_returns.max(1, initial=0.0)
            if c.schedule == "evidence":
                return schedule.evidence(best, goal, c.floor)
            return schedule.until_solved(best, goal, c.floor, COMPLETION_MARGIN)
        assert self.episodes is not None  # the constructor refuses these schedules without it
        if c.schedule == "decay":
            return schedule.decay(self.episode, self.episodes, c.decay, self.R)
        return schedule.fixed(c.beta, self.episode, self.episodes, self.R)

    def logits(self, active: np.ndarray) -> np.ndarray:
        """Looks up each prefix, and lets the decision model read the trajectories it gets."""
        t, draws = self._step, self._draws
        observations = self._tensor(self._now.observations[:, t])
        self._encoder.add(observations)
        current, encoded = self._current(active), self._encoder.take(active)
        record = self._record
        if record is not None and len(active) < len(self._run):
            record = record.take(torch.from_numpy(active).to(self.device))
        if self.memory.k == 0:
            logits = self.decision.decide(current, encoded, record, last=True)[:, 0]
            return logits.double().cpu().numpy()
        query = self._prefix.query(observations, self._tensor(self._now.return_to_go[:, t]))
        coin = draws.memory[active, 0 if self.config.toss == "episode" else t]
        ask_offline = coin < self._mixture.offline[active]
        retrieval = self.memory.retrieve(
            active,
            t,
            query.cpu().numpy()[active],
            ask_offline,
            draws.tie[active, t],
            draws.extra[active, t],  # a control draws its trajectories with them
        )
        assert self.lookups is not None
        self.lookups.add(
            self._run[active], retrieval.offline, *self.memory.origin(active, retrieval)
        )
        logits = self.cache.decide(current, encoded, active, retrieval, record)
        return logits.double().cpu().numpy()

    def sampling(self) -> np.ndarray:
        """Probability of sampling the action, as the schedule gives it."""
        return self._mixture.sample

    def on_step(self, step: Trajectories) -> None:
        """Appends the step to the prefixes."""
        if self.memory.k == 0:
            return
        parts = (step.actions, step.rewards, step.done, step.completed)
        self._prefix.advance(*(self._tensor(part) for part in parts))

    def make_keys(self, trajectories: Trajectories) -> EpisodeKeys:
        """Embeds the finished trajectories; their keys are those that an offline memory has."""
        if self.memory.k == 0:
            return super().make_keys(trajectories)
        predicted = self.embedding.keys(self._tensors(trajectories))
        individual = predicted.individual_reward.sum(1).cpu().numpy()
        return EpisodeKeys(
            predicted.vectors.cpu().numpy(),  # with the true return-to-go, as offline
            normalised(individual * self._each_agent(self._team_size), *self.spec.bounds),
        )

    def on_stored(self, places: np.ndarray) -> None:
        """Forgets keys and values of the trajectories that were at these places before."""
        self.cache.forget(places)

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Goes on from a `state`, with an empty cache."""
        super().load_state(state)
        self.cache.clear()
