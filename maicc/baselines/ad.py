"""AD, algorithm distillation (Laskin et al. 2023): imitation of a learner's whole history.

The model predicts each action from a stream of observations, actions and outcomes over episodes in
the order in which a behaviour policy got better, with no return-to-go. A step is one fused token,
so that the stream can be long. The dataset has no learner's history. Its place is taken by episodes
in the order of the policies that played them, from worst to best: an expert's, with less and less
noise (Zisman et al. 2023), or those of a few levels. The model is trained on a row of them that
begins with the worst and ends with the best. At test time the stream is the agent's own. It holds
the running episode and as many before it as fit into a row, and rolls on with every episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maicc.baselines.options import ADConfig
from maicc.baselines.sequence import SequenceModule, latest
from maicc.config import OptimiserConfig
from maicc.data.behaviour import ANNEALED
from maicc.data.dataset import EpisodeFile
from maicc.memory import OnlineMemory
from maicc.models.tokens import ACTION, OBSERVATION, OUTCOME
from maicc.training.chain_data import ChainData
from maicc.types import Behaviour, Spec, Trajectories


def worst_to_best(behaviours: Sequence[Behaviour]) -> np.ndarray:
    """Gives each behaviour its place (K,) in the order from worst to best.

    The order is that of the share of the maximum that they reach. Few episodes tell what an
    annealed level reaches, so that neighbours may reach shares in the wrong order. These shares are
    sorted by the levels' rates: an expert that acts at random less often never comes earlier.
    """
    reached = np.array([b.reached for b in behaviours])
    less_noise = -np.array([b.random_rate for b in behaviours])
    annealed = np.flatnonzero([b.name == ANNEALED for b in behaviours])
    reached[annealed[less_noise[annealed].argsort()]] = np.sort(reached[annealed])
    return np.lexsort((less_noise, reached)).argsort()


class HistoryData(ChainData):
    """Rows of episodes of one agent in one task, from worst to best; arguments of `ChainData`.

    Where the dataset has an expert with less and less noise, the other behaviours are left out:
    they learned nothing.
    """

    def setup(self, stage: str) -> None:
        """Reads the dataset, and the order of its behaviours."""
        super().setup(stage)
        behaviours = EpisodeFile(self.path).behaviours
        self.place = worst_to_best(behaviours)[self.stored.behaviour]
        annealed = np.array([b.name == ANNEALED for b in behaviours])
        if annealed.any():
            learner = annealed[self.stored.behaviour]
            self.groups, self.held_groups = (
                _only(learner, groups) for groups in (self.groups, self.held_groups)
            )
            self.holds_back = self.holds_back and bool(self.held_groups)

    def draw(self, items: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draws a history (E,) among the slices `items`, none of them twice.

        That of an agent with fewer episodes is shorter. It then stands anywhere among the places of
        a row, and at the others stand blank episodes (-1).
        """
        assert self.episodes is not None
        history = rng.permutation(items)[: self.episodes]
        row = np.full(self.episodes, -1)
        first = rng.integers(self.episodes - len(history) + 1)
        row[first : first + len(history)] = history[self.place[history].argsort(kind="stable")]
        return row


def _only(chosen: np.ndarray, groups: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """Keeps those slices of each agent of each task that are `chosen`, (M,) bool."""
    kept = [[items[chosen[items]] for items in agents] for agents in groups]
    kept = [[items for items in agents if len(items)] for agents in kept]
    return [agents for agents in kept if agents]


class ADModule(SequenceModule):
    """Trains AD; arguments of `BaselineModule`."""

    kind = "ad"
    config_type = ADConfig
    data_type = HistoryData
    kinds = (OBSERVATION, ACTION, OUTCOME)
    fused = True

    def __init__(
        self,
        spec: Spec | None = None,
        model: ADConfig = ADConfig(),  # noqa: B008 - never changed
        optimiser: OptimiserConfig = OptimiserConfig(),  # noqa: B008
    ) -> None:
        super().__init__(spec, model, optimiser)

    @classmethod
    def from_header(cls, spec: Spec, header: Mapping[str, Any]) -> ADModule:
        """Makes the untrained module that a checkpoint's header describes.

        Raises:
            KeyError: the checkpoint is of a version whose rows were other ones.
        """
        if "context_episodes" not in header["network"]:
            raise KeyError("context_episodes")
        return super().from_header(spec, header)

    @classmethod
    def drawn(cls, model: Any, spec: Spec) -> int:
        """Counts the episodes of a row."""
        return model.row(spec.max_steps)

    def contexts(self, online: OnlineMemory) -> Trajectories | None:
        """The latest episodes, oldest first: (rows, C, T, ...) arrays; None if there are none."""
        return latest(online, self.drawn(self.config, self.spec) - 1)
