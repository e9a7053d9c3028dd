"""Base classes of the rivals: the module that trains a network, and the team that acts with it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from math import ceil
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from maicc.config import MemoryConfig, OptimiserConfig, PolicyConfig
from maicc.envs import get_family
from maicc.files import ModelFiles
from maicc.models.heads import imitation_losses
from maicc.teams.lockstep import LockStepTeam
from maicc.training.chain_data import ChainData
from maicc.training.family_data import FamilyData
from maicc.training.modules import MaiccModule
from maicc.types import Spec, UserError

GREEDY = 10  # last episodes, at most half of all, in which no team samples actions


class BaselineTeam(LockStepTeam):
    """Team of a rival.

    Args:
        module: The trained module.
        seeds: One per run.
        episodes: Planned number of adaptation episodes.
        explore: See `SamplingAdapt`; methods that do not sample are greedy.
        replay: Whether what reached the maximum is repeated.
        states_bounds: Whether the family states the bounds of its return. If not, a run's own best
            return stands for the maximum.
        options: The other arguments of `LockStepTeam`.
    """

    module: BaselineModule
    net: nn.Module

    def __init__(
        self,
        module: BaselineModule,
        seeds: Sequence[int],
        episodes: int,
        explore: str = "sample",
        replay: bool = False,
        *,
        states_bounds: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(module.spec, seeds, **options)
        self.replay, self.goal = replay, 1.0 if states_bounds else None
        self.module, self.episodes = module, episodes
        self.explore = explore if module.explores else "greedy"
        self.net = module.net.to(self.device).eval()

    def on_episode_start(self) -> None:
        """Prepares nothing; a rival that needs something of past episodes overrides this."""

    def sampling(self) -> np.ndarray | float:
        """Probability of sampling an action, for each row or for all, as `explore` says."""
        if self.explore == "until_solved":
            return self.until_goal(MemoryConfig().window, 0.0).sample
        last = max(min(GREEDY, self.episodes // 2), 1)
        return float(self.explore == "sample" and self.episode < self.episodes - last)


class BaselineModule(MaiccModule):
    """Trains a rival's network `net`.

    Args:
        spec: Sizes of the task family; the data module fills it in.
        model: The rival's transformer.
        optimiser: AdamW and its schedule.
    """

    config_type = PolicyConfig
    team_type: ClassVar[type[BaselineTeam]]
    data_type: ClassVar[type[FamilyData]] = ChainData
    explores: ClassVar[bool] = True  # whether its teams explore by sampling actions

    def __init__(
        self,
        spec: Spec | None = None,
        model: PolicyConfig = PolicyConfig(),  # noqa: B008 - never changed
        optimiser: OptimiserConfig = OptimiserConfig(),  # noqa: B008
    ) -> None:
        super().__init__(spec, model, optimiser)
        self.net = self.make_net()

    @abstractmethod
    def make_net(self) -> nn.Module:
        """Makes the untrained network."""

    @classmethod
    def drawn(cls, model: Any, spec: Spec) -> int:
        """Counts the episodes of a chain in a batch."""
        return model.episodes

    @classmethod
    def supervised(cls, model: Any, spec: Spec) -> int:
        """Counts the episodes of a chain whose actions are learned: all of them."""
        return cls.drawn(model, spec)

    @classmethod
    def data(cls, config: Any, files: ModelFiles) -> FamilyData:
        """Makes the data module; its batches supervise as many trajectories as MAICC's do.

        The number is rounded up to whole chains.

        Args:
            config: Options of a run of this rival.
            files: Where the dataset and the checkpoints are.
        """
        fit, spec, kind = config.decision, get_family(config.family).spec, cls.data_type
        assert issubclass(kind, ChainData)
        chains = ceil(fit.batch_size / cls.supervised(fit.model, spec))
        drawn = cls.drawn(fit.model, spec)
        return kind(
            family=config.family,
            path=str(files.episodes),
            episodes=drawn,
            batch_size=chains,
            seed=config.seed,
            held_back=fit.held_back,
            **cls.data_options(config),
        )

    @classmethod
    def data_options(cls, config: Any) -> dict[str, Any]:
        """Gives further arguments of the data module, from the options of a run."""
        return {}

    def setup(self, stage: str) -> None:
        """Refuses batches of another kind.

        Raises:
            UserError: the data module is of another kind, or its chains have another length.
        """
        data = self.data_module
        if not isinstance(data, self.data_type):
            raise UserError(f"{type(self).__name__} is trained on {self.data_type.__name__}")
        if isinstance(data, ChainData):
            drawn = self.drawn(self.config, self.spec)
            if data.episodes != drawn:
                raise UserError(
                    f"the data module draws chains of {data.episodes} episodes, the model takes "
                    f"{drawn}; set data.init_args.episodes={drawn}"
                )

    def team(
        self,
        seeds: Sequence[int],
        episodes: int,
        agent_mask: np.ndarray | None = None,
        explore: str = "sample",
        **options: Any,
    ) -> LockStepTeam:
        """Makes one team per seed; arguments as those of `BaselineTeam`."""
        return self.team_type(self, seeds, episodes, explore, agent_mask=agent_mask, **options)

    def imitation(
        self, logits: Tensor, actions: Tensor, hidden_errors: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Computes the cross-entropy of logits (M, A) and actions (M,).

        The share of actions that are predicted right comes with it. So does the mean of
        `hidden_errors` (M,), of the model's second loss, if there are any.
        """
        smoothing = self.config.label_smoothing
        loss, accuracy, hidden = imitation_losses(logits, actions, hidden_errors, smoothing)
        return self.with_hidden({"loss": loss, "accuracy": accuracy}, hidden)
