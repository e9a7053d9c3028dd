"""MAICC's team: each agent acts on a record of its own episodes, on what it looks up, or both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from maicc.config import MemoryConfig, check_schedule
from maicc.data.returns import normalised
from maicc.memory import BlendedMemory, OfflineMemory, schedule
from maicc.models.decision import DecisionTransformer
from maicc.models.embedding import Embedding
from maicc.models.observations import EncodedObservations
from maicc.models.past import Past
from maicc.schema import check_options
from maicc.teams.encoded import Encoded, own_ids
from maicc.teams.lockstep import EpisodeKeys, LockStepTeam
from maicc.teams.lookups import LookupStats
from maicc.teams.running import EpisodeEncoder, RunningPrefix
from maicc.types import Retrieval, Spec, Trajectories, UserError

_CONTEXTS, _EPISODES = 16, 32  # trajectories that are encoded at a time
_FEW = 0.8  # share of rows still going below which the others are given up


class Team(LockStepTeam):
    """N agents in each of R runs, with parameters frozen.

    Args:
        spec: Sizes of the task family.
        embedding: Trained; only its student is used. None for a model that retrieves nothing.
        decision: Trained.
        offline: The dataset with its keys.
        memory: How the team remembers and looks up.
        seeds: One per run.
        episodes: Planned number of adaptation episodes; schedules `decay` and `fixed` need it.
        states_bounds: Whether the family states the bounds of its return.
        agents: Which agents of the team these are; all by default.
        agent_mask: (R, agents of the largest team) bool, False where a team is smaller; all True by
            default.
        device: Where the networks run.
    """

    def __init__(
        self,
        spec: Spec,
        embedding: Embedding | None,
        decision: DecisionTransformer,
        offline: OfflineMemory,
        memory: MemoryConfig,
        seeds: Sequence[int],
        *,
        episodes: int | None = None,
        states_bounds: bool = True,
        agents: Sequence[int] | None = None,
        agent_mask: np.ndarray | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        if memory.schedule in ("decay", "fixed") and not episodes:
            raise UserError(
                f"schedule {memory.schedule} needs the number of episodes in advance; give it, or "
                "set memory.schedule=until_solved"
            )
        k = decision.config.k
        if k > min(memory.candidates, len(offline)):
            raise UserError(
                f"k={k} trajectories can't be chosen from {memory.candidates} candidates among "
                f"{len(offline)} stored; raise memory.candidates or use a larger dataset"
            )
        check_options(memory, "memory")
        check_schedule(memory, "memory")
        if k == 0:
            embedding = None  # nothing is looked up
        elif embedding is None:
            raise UserError(f"k={k} trajectories are looked up by keys, which an embedding makes")
        super().__init__(
            spec,
            seeds,
            agents=agents,
            agent_mask=agent_mask,
            device=device,
            key_width=embedding.config.width if embedding else 0,
            max_episodes=memory.max_episodes,
            draws=k,
            shared_draws=memory.draws == "shared",
            redraw=memory.redraw,
        )
        self.config, self.episodes = memory, episodes
        unknown = not states_bounds and memory.schedule == "until_solved"
        self.replay = memory.replay
        if memory.goal == "own" or (memory.goal == "auto" and unknown):
            self.goal = None
        elif memory.goal == "dataset":
            self.goal = max(float(offline.team_return.max()), 1e-3)
        self.embedding = embedding.to(device).eval() if embedding else None
        self.decision = decision.to(device).eval()
        self.memory = BlendedMemory(
            offline, self.online, k, memory.candidates, memory.alpha, memory.score, memory.margin,
            own_only=memory.source == "own",
        )  # fmt: skip
        self.k, self.record = k, decision.config.record
        token = 8 * decision.config.layers * decision.config.width  # bytes of keys and values
        self._longest = spec.max_steps * (1 if decision.config.tokens == "fused" else 4)  # tokens
        # which entities are read together depends on the batch, so that they are read alone
        alone = decision.config.encoder == "entities"
        contexts, episodes = (1, 1) if alone else (_CONTEXTS, _EPISODES)
        kept = min(spec.max_steps, decision.most_steps)
        self.encoded_contexts = Encoded(
            self.decision.encode_contexts, contexts, self._longest * token, memory.cache_gib
        )
        self.encoded_episodes = Encoded(
            self.decision.encode_episodes, episodes, kept * token, memory.cache_gib
        )

    def on_episode_start(self) -> None:
        """Starts new prefixes, and sets the probability of asking the offline memory."""
        if self.embedding is not None:
            self._prefix = RunningPrefix(self.embedding)
            self.lookups = LookupStats(self.R, int(self.memory.offline.task.max()) + 1)
        reader = self.decision.encoders.observation
        self._encoder = EpisodeEncoder(reader, len(self._run), self.spec.max_steps)
        self.shown = self._shown()
        self._mixture = self._mixture_of_rows()
        self._reading = np.zeros(0, np.int64)  # rows that are read in each step, ascending
        self._seen: Past | None = None  # by each of them

    def _shown(self) -> np.ndarray:
        """Chooses the slots (rows, C) of each row's record; none without a record."""
        n = self.decision.config.record
        if not n:
            return np.zeros((len(self._run), 0), np.int64)
        return self.online.choose(n, self.config.alpha)

    def wanted(self, active: np.ndarray, repeats: np.ndarray) -> np.ndarray:
        """Marks the rows that do not repeat an action; all if each step retrieves for itself."""
        if self.memory.k:
            return super().wanted(active, repeats)
        return ~repeats | np.isin(active, self.traced)

    def _read_from_now_on(self, rows: np.ndarray) -> None:
        """Lets the model read these rows too: their record and the steps so far, each once."""
        t, seen = self._step, self._past_episodes(rows)
        if t:
            steps = self._current(rows).take(np.s_[:, :t])
            encoded = EncodedObservations(*(part[:, :t] for part in self._encoder.take(rows)))
            seen = self.decision.catch_up(steps, encoded, seen)
        reading = np.concatenate([self._reading, rows])
        if seen is not None and self._seen is not None:
            order = torch.from_numpy(np.argsort(reading)).to(self.device)
            seen = self._seen.with_rows_of(seen).take(order)
        self._seen, self._reading = seen, np.sort(reading)

    def _past_episodes(self, rows: np.ndarray) -> Past | None:
        """Gives what these rows' record shows, as encoded; None where it shows nothing."""
        if not self.shown.shape[1]:
            return None
        row, slot = np.broadcast_arrays(rows[:, None], self.shown[rows])

        def episodes(place: np.ndarray) -> Trajectories:
            index = row.flat[place], slot.flat[place]
            return self._tensors(self.online.trajectories.take(index))

        return self.encoded_episodes.joined(own_ids(row, slot), episodes)

    def _retrieved(self, rows: np.ndarray, retrieval: Retrieval) -> Past:
        """Gives the contexts that these rows (Q,) have retrieved, as encoded."""
        item = retrieval.item  # (Q, K)
        own = len(self.memory.offline) + own_ids(rows[:, None], item)
        ids = np.where(retrieval.offline[:, None], item, own)

        def contexts(place: np.ndarray) -> Trajectories:
            row, column = np.unravel_index(place, item.shape)
            parts = (x[row, column, None] if x.ndim == 2 else x[row] for x in retrieval)
            found = self.memory.contexts(rows[row], Retrieval(*parts))
            return self._tensors(found.take(np.s_[:, 0]))

        return self.encoded_contexts.joined(np.where(item >= 0, ids, -1), contexts)

    def kept_bytes(self) -> int:
        """Memory of the keys and values of trajectories that were read."""
        return self.encoded_contexts.bytes() + self.encoded_episodes.bytes()

    def _mixture_of_rows(self) -> schedule.Mixture:
        """Probabilities in this episode, as the schedule gives them; those of a run are equal."""
        c, rows = self.config, len(self._run)
        if c.schedule == "until_solved":
            return self.until_goal(c.window, c.floor)
        if c.schedule == "evidence":
            assert self.goal is not None  # `check_schedule` refuses a run's own
            return schedule.evidence(self.best_of_latest(c.window), self.goal, c.floor)
        assert self.episodes is not None  # the constructor refuses these schedules without it
        if c.schedule == "decay":
            return schedule.decay(self.episode, self.episodes, c.decay, rows)
        return schedule.fixed(c.beta, self.episode, self.episodes, rows)

    def logits(self, active: np.ndarray) -> np.ndarray:
        """Looks up each prefix, and lets the decision model read the trajectories it gets.

        A row is read from the first step on whose logits are wanted, and then in every step, also
        where it has no choice: its later steps look back at this one. Where each step retrieves for
        itself, every row is read from the start.
        """
        t = self._step
        observations = self._tensor(self._now.observations[:, t])
        self._encoder.add(observations)
        self._drop_ended()
        late = np.setdiff1d(active, self._reading)
        if self.memory.k:
            late = np.arange(len(self._run)) if t == 0 else late[:0]
        if len(late):
            self._read_from_now_on(late)
        rows = self._reading
        if not len(rows):
            return np.zeros((0, self.spec.n_actions))
        is_active = np.isin(rows, active)
        retrieval = None
        if self.memory.k:
            retrieval = self._look_up(rows, observations)
            self.retrieved = rows, retrieval
            asked = Retrieval(*(part[is_active] for part in retrieval))
            assert self.lookups is not None
            self.lookups.add(self._run[active], asked.offline, *self.memory.origin(active, asked))
        if retrieval is not None and self.decision.config.context == "concatenated":
            contexts = self._tensors(self.memory.contexts(rows, retrieval))
            current, encoded = self._current(rows), self._encoder.take(rows)
            logits = self.decision(current, contexts, encoded)[:, -1]
        else:
            past = None if retrieval is None else self._retrieved(rows, retrieval)
            if self._seen is not None and not self._seen.room:
                self._seen = self._seen.with_room(self._longest, self.k * self._longest)
            first = max(t - 1, 0)
            logits, self._seen = self.decision.extend(
                self._current(rows, first), self._encoder.take(rows, first), t, self._seen, past
            )
        return logits.double().cpu().numpy()[is_active]

    def _drop_ended(self) -> None:
        """Gives up rows whose episode has ended, many at a time."""
        going = np.flatnonzero(~self._ended[self._run[self._reading]])
        if len(going) < _FEW * len(self._reading):
            self._reading = self._reading[going]
            if self._seen is not None:
                self._seen = self._seen.take(torch.from_numpy(going).to(self.device))

    def _look_up(self, rows: np.ndarray, observations: Tensor) -> Retrieval:
        """Retrieves trajectories for the prefixes of these rows."""
        t, draws = self._step, self._draws
        query = self._prefix.query(observations, self._tensor(self._now.return_to_go[:, t]))
        coin = draws.memory[rows, 0 if self.config.toss == "episode" else t]
        return self.memory.retrieve(
            rows,
            t,
            query.cpu().numpy()[rows],
            coin < self._mixture.offline[rows],
            draws.tie[rows, t],
            draws.extra[rows, t],  # a control draws its trajectories with them
        )

    def sampling(self) -> np.ndarray:
        """Probability of sampling the action, as the schedule gives it."""
        return self._mixture.sample

    def on_step(self, step: Trajectories) -> None:
        """Appends the step to the prefixes."""
        if self.embedding is None:
            return
        parts = (step.actions, step.rewards, step.done, step.completed)
        self._prefix.advance(*(self._tensor(part) for part in parts))

    def make_keys(self, trajectories: Trajectories) -> EpisodeKeys:
        """Embeds the finished trajectories; their keys are those that an offline memory has."""
        if self.embedding is None:
            return super().make_keys(trajectories)
        predicted = self.embedding.keys(self._tensors(trajectories))
        individual = predicted.individual_reward.sum(1).cpu().numpy()
        return EpisodeKeys(
            predicted.vectors.cpu().numpy(),  # with the true return-to-go, as offline
            normalised(individual * self._each_agent(self._team_size), *self.spec.bounds),
        )

    def on_stored(self, places: np.ndarray) -> None:
        """Forgets keys and values of the trajectories that were at these places before."""
        ids = own_ids(np.arange(len(places)), places)
        self.encoded_episodes.forget(ids)
        self.encoded_contexts.forget(len(self.memory.offline) + ids)

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Goes on from a `state`, with nothing encoded."""
        super().load_state(state)
        self.encoded_episodes.clear()
        self.encoded_contexts.clear()
