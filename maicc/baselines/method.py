"""Description of a method: what is trained in which order, on what, and which team then acts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from maicc.config import AdaptConfig, RunConfig
from maicc.files import ModelFiles
from maicc.types import Spec, Task, UserError

if TYPE_CHECKING:
    import numpy as np

    from maicc.teams.lockstep import LockStepTeam
    from maicc.training.family_data import FamilyData
    from maicc.training.modules import MaiccModule


class Method(ABC):
    """One way to train teams. Describing it imports neither torch nor Lightning.

    Attributes:
        name: What users type.
        config: Options of a run; `config.FIT` are those of each fit.
        fits: Networks that are trained, in order. Each leaves FIT.ckpt.
        adapts: Whether its teams remember anything; otherwise they play alike in every episode.
        renamed: Files of version 0.1, and their names now.
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
        """Loads what training left.

        Args:
            spec: Sizes that are expected; those of the dataset if None.

        Raises:
            UserError: a file is missing, damaged, or of another family or size.
        """

    @abstractmethod
    def told(self, config: Any) -> str:
        """Says what training tells the method besides observations, actions and outcomes of one
        agent; "tasks" is which episodes are of one task."""

    def adopt(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Turns MAICC's options, or another rival's, into this method's.

        Args:
            options: Plain and nested; those that this method does not have may stay.
        """
        return {**options, "method": self.name}

    def reads(self, fit: str) -> tuple[str, ...]:
        """Names the sections of options that a fit follows from."""
        return (fit,)

    def needs_expert(self, config: Any) -> str | None:
        """Names the option for which actions of the best behaviour policy are learned; None where
        they are not."""
        return None

    def key_width(self, config: Any) -> int:
        """Counts the numbers of a key that a team stores for each step."""
        return 0

    def check(self, config: Any, stored: int) -> None:  # noqa: B027 - most need nothing
        """Refuses options that do not fit together.

        Args:
            stored: Trajectories of other episodes in the dataset.

        Raises:
            UserError: says which, and what to do.
        """

    def trained_on(self, config: Any) -> str:
        """Says how much the method is trained."""
        fit = config.decision
        return f"{fit.steps} x {fit.batch_size} trajectories"


class Trained(ABC):
    """What training left, loaded once, from which teams are made.

    Attributes:
        spec: Sizes of the task family.
        tasks: Tasks of the dataset, where the teams keep it.
        content: Hashes of all that results follow from.
        parameters: Numbers in the networks that act.
    """

    spec: Spec
    tasks: Sequence[Task] = ()
    content: str
    parameters: int

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
            adapt: The method's options of adaptation; the defaults if None.
            agent_mask: (R, agents of the largest team) bool, False where a team is smaller.
            agents: Which agents of the team these are; all by default.
        """


def own_options(adapt: AdaptConfig | None, kind: type[AdaptConfig], method: str) -> Any:
    """The options of adaptation, which must be of the method's own kind; the defaults if None.

    Raises:
        UserError: they are another method's.
    """
    if adapt is None:
        return kind()
    if not isinstance(adapt, kind):
        raise UserError(
            f"{method} takes {kind.__name__}, not {type(adapt).__name__}: "
            "an option that it does not read is refused"
        )
    return adapt
