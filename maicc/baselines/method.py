"""Description of a method: its networks in the order of training, their data, and its team."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from maicc.config import AdaptConfig, RunConfig
from maicc.envs import get_family
from maicc.files import ModelFiles
from maicc.types import Spec, Task, UserError

if TYPE_CHECKING:
    import numpy as np

    from maicc.data.dataset import EpisodeFile
    from maicc.teams.lockstep import LockStepTeam
    from maicc.training.family_data import FamilyData
    from maicc.training.modules import MaiccModule


# in what a method is told
HIDDEN_PART = "the hidden part of training tasks"
WHOSE_EPISODES = "which episodes the expert played"  # it leaves out those that the expert failed in


# Options of `decision.model` that one method does not take over from another: a rival's team would
# sample smoothed labels, no rival as published is asked for the hidden part, and what AT supervises
# is not what MAICC does.
_OF_EACH_METHOD = ("label_smoothing", "hidden_weight", "supervise")


class Method(ABC):
    """One way to train teams. Describing it imports neither torch nor Lightning.

    Attributes:
        name: Name that users type.
        config: Class of a run's options; `config.FIT` are those of each fit.
        fits: Names of all networks that it may train, in order. Each fit leaves FIT.ckpt.
        adapts: Whether its teams remember anything; otherwise they play alike in every episode.
        renamed: Names of files of version 0.1, with the names of today.
    """

    name: str
    config: type[RunConfig]
    fits: tuple[str, ...] = ("decision",)
    adapts: bool = True
    renamed: ClassVar[dict[str, str]] = {}

    @abstractmethod
    def prepare(
        self, fit: str, config: Any, files: ModelFiles
    ) -> tuple[type[MaiccModule], Any, FamilyData]:
        """Gives a fit's module, the options of its network, and its batches."""

    @abstractmethod
    def load(self, config: Any, files: ModelFiles, spec: Spec | None, device: str) -> Trained:
        """Loads the trained networks.

        Args:
            config: Options of the run.
            files: Where the dataset and the checkpoints are.
            spec: Sizes that are expected; those of the dataset if None.
            device: Where the networks run.

        Raises:
            UserError: a file is missing, damaged, or of another family or size.
        """

    @abstractmethod
    def told(self, config: Any, dataset: EpisodeFile) -> str:
        """Names what training on a dataset tells the method besides one agent's own experience.

        This experience is observations, actions and outcomes. "tasks" means that training tells
        which episodes are of one task.
        """

    def adopt(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Turns MAICC's options, or another rival's, into this method's.

        Args:
            options: Plain values in nested dicts. Options that this method does not have may stay.
        """
        adopted = {**options, "method": self.name}
        decision = adopted.get("decision", {})
        if options.get("method", "maicc") != self.name and "model" in decision:
            model = {k: v for k, v in decision["model"].items() if k not in _OF_EACH_METHOD}
            adopted["decision"] = {**decision, "model": model}
        return adopted

    def fits_of(self, config: Any) -> tuple[str, ...]:
        """Names the networks that a run trains, in order; the last one acts."""
        return self.fits

    def acting(self, config: Any) -> tuple[str, ...]:
        """Names the networks that a team of a run acts with."""
        return self.fits_of(config)[-1:]

    def looks_up(self, config: Any) -> bool:
        """Says whether teams look up trajectories of the dataset, and so need it to act."""
        return False

    def reads(self, fit: str) -> tuple[str, ...]:
        """Names the sections of options that a fit follows from; the first one is its own."""
        return (fit,)

    def starts_from(self, fit: str, files: ModelFiles) -> Path | None:
        """Names the checkpoint that a fit starts from; None if it starts from nothing."""
        return None

    def played_runs(self, fit: str, files: ModelFiles) -> Path | None:
        """Names the file of the adaptation runs that a fit learns from; None if there are none."""
        return None

    def needs_expert(self, config: Any) -> str | None:
        """Names the option that asks for the best behaviour policy's actions; None if none does."""
        return None

    def key_width(self, config: Any) -> int:
        """Counts the numbers of a key that a team stores for each step."""
        return 0

    def check(self, config: Any, stored: int) -> None:  # noqa: B027 - most need nothing
        """Refuses options that do not fit together.

        Args:
            config: Options of the run.
            stored: Number of trajectories of other episodes in the dataset.

        Raises:
            UserError: names the option, and what to do.
        """

    def trained_on(self, config: Any) -> str:
        """Says how much the method is trained."""
        fit = config.decision
        return f"{fit.steps} x {fit.batch_size} trajectories"


class Trained(ABC):
    """Trained networks, loaded once, from which teams are made.

    Attributes:
        spec: Sizes of the task family.
        tasks: Tasks of the dataset; none where teams do not use the dataset.
        rosters: Rosters of the dataset's tasks, as `TaskFamily.rosters` gives them.
        content: Hashes of everything that results follow from.
        parameters: Count of the numbers in the networks that act.
        states_bounds: Whether the family states the bounds of its return, as its run noted down;
            None where none has, and the family is asked.
    """

    spec: Spec
    tasks: Sequence[Task] = ()
    rosters: Sequence[Sequence[str]] = ()
    content: str
    parameters: int
    states_bounds: bool | None = None

    @property
    def knows_maximum(self) -> bool:
        """Whether the family states the bounds of its return; True if nothing tells."""
        if self.states_bounds is not None:
            return self.states_bounds
        try:
            return get_family(self.spec.family).return_bounds is not None
        except UserError:
            return True

    @abstractmethod
    def team(
        self,
        seeds: Sequence[int],
        adapt: Any = None,
        *,
        agent_mask: np.ndarray | None = None,
        agents: Sequence[int] | None = None,
    ) -> LockStepTeam:
        """Makes one team per seed.

        Args:
            seeds: One per run.
            adapt: The method's options of adaptation; the defaults if None.
            agent_mask: (R, agents of the largest team) bool, False where a team is smaller.
            agents: Which agents of the team these are; all by default.
        """


def own_options(adapt: AdaptConfig | None, kind: type[AdaptConfig], method: str) -> Any:
    """Checks that options of adaptation are of the method's own class.

    Args:
        adapt: The options; None gives the defaults.
        kind: The method's own class of options.
        method: Name of the method.

    Raises:
        UserError: the options are another method's.
    """
    if adapt is None:
        return kind()
    if not isinstance(adapt, kind):
        raise UserError(
            f"{method} takes {kind.__name__}, not {type(adapt).__name__}: "
            "an option that it does not read is refused"
        )
    return adapt
