"""Options of the rivals: a class for each, with no option that the rival does not read."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import Literal

from maicc.config import AdaptConfig, FitConfig, PolicyConfig, RunConfig
from maicc.schema import limited


@dataclass
class SamplingAdapt(AdaptConfig):
    """Adaptation of teams that explore by sampling actions.

    Args:
        explore: `sample` actions in all but the last ten episodes, of fewer than 20 but the later
            half; sample them while none of the latest five episodes reached the family's maximum
            (`until_solved`, MAICC's rule); or take the best action in all episodes (`greedy`).
        replay: Repeat own actions of episodes that reached the maximum, as MAICC does.
        draws: Random numbers of samples: each agent's `own`, or the same ones for all agents, which
            a team has `shared` (`adapt.memory.draws` of MAICC).
        redraw: Random numbers are drawn anew at each `step`, or once per `episode`.

    In families that state no bounds of the return a run's own best return is the maximum.
    """

    explore: Literal["sample", "until_solved", "greedy"] = "sample"
    replay: bool = False
    draws: Literal["own", "shared"] = "own"
    redraw: Literal["step", "episode"] = "step"


@dataclass
class RivalFit(FitConfig):
    """Training of a rival.

    Args:
        model: The rival's transformer.
    """

    model: PolicyConfig = field(default_factory=PolicyConfig)


@dataclass
class RivalRun(RunConfig):
    """A run of a rival.

    Args:
        decision: Training of the rival.
    """

    decision: RivalFit = field(default_factory=RivalFit)


@dataclass
class RememberingConfig(PolicyConfig):
    """The transformer of a rival that reads an agent's past episodes, in a row or as a set.

    Args:
        hidden_weight: Weight of a second loss in training, as MAICC has it: the model tells the
            hidden part of the task. No rival has one as published.
    """

    hidden_weight: float = limited(0.0, 0)


@dataclass
class ATConfig(RememberingConfig):
    """AT's transformer.

    Args:
        episodes: Episodes in a row, the running one included.
        supervise: Loss on `all` episodes in a row, or on the `last`.
    """

    episodes: int = limited(4, 2)
    supervise: Literal["all", "last"] = "all"


@dataclass
class ATFit(RivalFit):
    """Training of AT."""

    model: ATConfig = field(default_factory=ATConfig)


@dataclass
class ATRun(RivalRun):
    """A run of AT."""

    decision: ATFit = field(default_factory=ATFit)
    adapt: SamplingAdapt = field(default_factory=SamplingAdapt)


@dataclass
class ADConfig(RememberingConfig):
    """AD's transformer.

    Args:
        context_steps: Steps that a row holds at least if its episodes are of full length. A row is
            of whole episodes, two or more, and the running one is one of them.
        context_episodes: Largest number of episodes in a row, also where they are short. A row in
            training is a whole history, so that a team gets as far within as many episodes.
    """

    context_steps: int = limited(1000, 1)
    context_episodes: int = limited(16, 2)

    def row(self, max_steps: int) -> int:
        """Counts the episodes of a row, where full length is `max_steps`."""
        return max(min(ceil(self.context_steps / max_steps), self.context_episodes), 2)


@dataclass
class ADFit(RivalFit):
    """Training of AD."""

    model: ADConfig = field(default_factory=ADConfig)


@dataclass
class ADRun(RivalRun):
    """A run of AD."""

    decision: ADFit = field(default_factory=ADFit)
    adapt: SamplingAdapt = field(default_factory=SamplingAdapt)


@dataclass
class DPTConfig(RememberingConfig):
    """DPT's transformer.

    Args:
        set_episodes: Episodes whose steps make up a set.
    """

    set_episodes: int = limited(8, 1)


@dataclass
class DPTFit(RivalFit):
    """Training of DPT.

    Args:
        lived: Sets are drawn as MAICC's memories in training are, of what a team could have lived
            through: no failure of the expert, and half of them failures alone. Else they hold any
            episodes of the dataset.
    """

    model: DPTConfig = field(default_factory=DPTConfig)
    lived: bool = False


@dataclass
class DPTRun(RivalRun):
    """A run of DPT."""

    decision: DPTFit = field(default_factory=DPTFit)
    adapt: SamplingAdapt = field(default_factory=SamplingAdapt)


@dataclass
class RADTConfig(PolicyConfig):
    """RADT's two transformers: one retrieves, the other decides.

    Args:
        window: Steps of a piece of a trajectory; as many steps that followed are shown too.
    """

    window: int = limited(8, 1)


@dataclass
class RADTFit(RivalFit):
    """Training of RADT's decision model.

    Args:
        short_query: Queries that end before this step get any piece of their task: what the agent
            has seen by then may not tell the task.
    """

    model: RADTConfig = field(default_factory=RADTConfig)
    short_query: int = limited(10, 0)


@dataclass
class RetrieverFit:
    """Training of RADT's retriever; sizes, optimiser and batches are those of `decision`.

    Args:
        steps: Gradient steps.
    """

    steps: int = limited(1000, 1)


@dataclass
class RADTRun(RivalRun):
    """A run of RADT.

    Args:
        retriever: Training of the decision transformer that retrieves.
    """

    retriever: RetrieverFit = field(default_factory=RetrieverFit)
    decision: RADTFit = field(default_factory=RADTFit)
    adapt: SamplingAdapt = field(default_factory=SamplingAdapt)


@dataclass
class HiSSDFit(RivalFit):
    """Training of HiSSD.

    Args:
        window: Steps of each episode that are shown, from a random one on; 0 shows all.
    """

    window: int = limited(0, 0)


@dataclass
class HiSSDRun(RivalRun):
    """A run of HiSSD."""

    decision: HiSSDFit = field(default_factory=HiSSDFit)
