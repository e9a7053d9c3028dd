"""Every option of the pipeline, with its default. YAML files and the command line fill these in."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from maicc.types import Spec, UserError


@dataclass
class CollectConfig:
    """How the dataset is made.

    Args:
        episodes: Episodes per training task and level.
        levels: Mean returns aimed at, as shares of the maximum; one behaviour policy each.
        explorer: Add one more behaviour: the family's scripted explorer, which knows nothing of
            the task. A team that has seen exploration can imitate it.
        workers: Processes; 0 takes every core. The data are the same for any number.
    """

    episodes: int = 200
    levels: list[float] = field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0])
    explorer: bool = False
    workers: int = 0


@dataclass
class OptimiserConfig:
    """AdamW.

    Args:
        learning_rate: The highest rate of the schedule.
        weight_decay: Decoupled weight decay.
        schedule: `one_cycle` rises and falls over the whole fit, `constant` stays.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    schedule: Literal["one_cycle", "constant"] = "one_cycle"


@dataclass
class EmbeddingConfig:
    """Teacher and student (METHOD.md, sections 3 and 4).

    Args:
        width: Width of the embedding.
        layers: Transformer layers.
        heads: Attention heads.
        dropout: Dropout; above 0 attention on CPU takes a path 3 to 5 times slower.
        encoder: How observations are read: `flat`, as one padded vector (the paper), or `entities`,
            a transformer layer over oneself, allies and enemies, with attacks aimed at enemies; for
            families that give an observation layout.
        teacher: Distil the student from a centralised teacher; false is MAICC-S.
        attention: Of the teacher: `joint` over all tokens of the episode (the paper), or
            `factored`, over the team and over time in turns, for long episodes and large teams.
        credit: Who predicts individual rewards: a head on the student's own tokens (`local`), or
            the teacher's head applied to the distilled token (`teacher`, the paper's way).
        return_to_go: Feed return-to-go tokens as well (an ablation).
        action_weight: Weight of the action loss.
        reward_weight: Weight of the reward loss.
        dynamics_weight: Weight of the dynamics loss.
        distillation: Distance between student and teacher: mean squared error (the authors' code)
            or the KL divergence between the softmax of both (the paper).
        distillation_weight: Weight of the distillation loss.
    """

    width: int = 64
    layers: int = 4
    heads: int = 4
    dropout: float = 0.0
    encoder: Literal["flat", "entities"] = "flat"
    teacher: bool = True
    attention: Literal["joint", "factored"] = "joint"
    credit: Literal["local", "teacher"] = "local"
    return_to_go: bool = False
    action_weight: float = 1.0
    reward_weight: float = 1.0
    dynamics_weight: float = 1.0
    distillation: Literal["mse", "kl"] = "mse"
    distillation_weight: float = 1.0


@dataclass
class DecisionConfig:
    """The decision transformer (METHOD.md, section 6).

    Rivals have its sizes, label smoothing and, but for HiSSD, encoder; `k`, `tokens`, `context`,
    `supervise` and `labels` are MAICC's alone.

    Args:
        width: Width of the model.
        layers: Transformer layers.
        heads: Attention heads.
        dropout: Dropout; above 0 attention on CPU takes a path 3 to 5 times slower.
        encoder: How observations are read; see the embedding's.
        k: Trajectories in the context; 0 for no context (a control).
        tokens: `fused`, one token per step, or `four`, the paper's g o a p.
        context: `independent`, each retrieved trajectory is encoded on its own, or `concatenated`,
            attention runs causally through all of them (the paper).
        supervise: Loss on `all` steps of the current trajectory, or on the action that follows the
            query's prefix (`last`, the authors' code).
        labels: Which actions are learned: those of the `behaviour` policies that played (the
            paper), or what the best of them would have done (`expert`), which the dataset keeps.
        label_smoothing: Of the cross-entropy.
    """

    width: int = 64
    layers: int = 4
    heads: int = 4
    dropout: float = 0.0
    encoder: Literal["flat", "entities"] = "flat"
    k: int = 3
    tokens: Literal["fused", "four"] = "fused"
    context: Literal["independent", "concatenated"] = "independent"
    supervise: Literal["all", "last"] = "all"
    labels: Literal["behaviour", "expert"] = "behaviour"
    label_smoothing: float = 0.1


@dataclass
class RetrievalConfig:
    """How contexts are found while the decision model is trained (METHOD.md, section 6).

    Args:
        candidates: Nearest trajectories that are scored.
        s_max: Candidates at least this similar are near-copies and come second.
        index: A FAISS index_factory string; `Flat` is exact.
    """

    candidates: int = 50
    s_max: float = 0.9
    index: str = "Flat"


@dataclass
class EmbeddingFit:
    """Training of the embedding.

    Args:
        model: Teacher and student.
        optimiser: AdamW and its schedule.
        batch_size: Episodes per step, all of one task.
        window: Steps of each episode that are shown, from a random one on; 0 shows all.
        tokens: Most tokens of the teacher per step, but at least one episode: larger teams get
            smaller batches; 0 is any.
        steps: Gradient steps.
    """

    model: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    batch_size: int = 32
    window: int = 0
    tokens: int = 0
    steps: int = 1000


@dataclass
class DecisionFit:
    """Training of the decision model.

    Args:
        model: The decision transformer.
        optimiser: AdamW and its schedule.
        retrieval: How training contexts are found.
        batch_size: Queries per step.
        steps: Gradient steps.
    """

    model: DecisionConfig = field(default_factory=DecisionConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    batch_size: int = 96
    steps: int = 3500


@dataclass
class MemoryConfig:
    """What the team remembers and looks up at test time (METHOD.md, sections 7 and 12).

    Args:
        schedule: `evidence` needs no number of episodes: the further the best of the latest returns
            is from the goal, the more is looked up offline; `decay` is the paper's; `fixed` uses
            `beta`.
        window: Of `evidence`: how many of the latest episodes count, so that a team that has lost
            its way looks for it again.
        goal: Of `evidence`: the family's `maximum` return, or the best return in the `dataset`,
            where the maximum is out of reach.
        floor: Of `evidence`: least probability of looking up offline, also when the goal is
            reached; half of it is the least probability of sampling.
        decay: Lambda of `decay`.
        beta: Share of offline look-ups under `fixed`: 0 is online only, 1 offline only.
        toss: The coin between the memories falls at each `step` (the authors' code) or once per
            `episode` (the paper).
        candidates: Nearest trajectories that are scored.
        alpha: Weight of the team return against the predicted individual return.
        score: `paper`, cos + alpha R + (1 - alpha) R_ind; `code`, the authors': (cos + 1) / 2, and
            R_ind for online trajectories only; `similarity`, no utility (a control); `random`, no
            similarity either (a control).
        margin: A trajectory that scores more than this below the best one makes room for the better
            ones, which are shown again; `.inf` shows the k best whatever they are (the paper).
        max_episodes: Episodes that an agent keeps; of more, the one with the lowest return gives
            way, the oldest first. 0 keeps all.
        cache_gib: Room for keys and values of trajectories that were looked up; when it is full
            they are computed anew.
    """

    schedule: Literal["evidence", "decay", "fixed"] = "evidence"
    window: int = 5
    goal: Literal["maximum", "dataset"] = "maximum"
    floor: float = 0.005
    decay: float = 4.605170186
    beta: float = 0.5
    toss: Literal["step", "episode"] = "step"
    candidates: int = 50
    alpha: float = 1.0
    score: Literal["paper", "code", "similarity", "random"] = "paper"
    margin: float = 0.3
    max_episodes: int = 0
    cache_gib: float = 1.0


@dataclass
class AdaptConfig:
    """Adaptation on unseen tasks.

    Args:
        episodes: Adaptation episodes of each run.
        runs: Runs on held-out tasks, in lock step; tasks repeat when there are fewer.
        training_runs: Runs on training tasks, for comparison; kept in a file of their own.
        memory: What is remembered and looked up.
        explore: AT, AD, RADT, DPT: `sample` actions up to the last tenth of the episodes, or take
            the best in all (`greedy`).
    """

    episodes: int = 100
    runs: int = 16
    training_runs: int = 9
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    explore: Literal["sample", "greedy"] = "sample"

    def identity(self, method: str) -> dict[str, Any]:
        """What a method's result follows from, besides its models, the tasks and the seed."""
        found = asdict(self)
        for idle in ("runs", "training_runs", "explore" if method == "maicc" else "memory"):
            del found[idle]
        if method == "maicc":
            del found["memory"]["cache_gib"]
        return found


@dataclass
class BaselineConfig:
    """Options of the rivals. Sizes, optimiser, batch size and steps are those of `decision`;
    RADT's retriever is trained for `embedding.steps`, HiSSD in windows of `embedding.window`.

    Args:
        episodes: AT, AD: episodes in a row, the running one included.
        set_episodes: DPT: episodes whose steps make up a set.
        supervise: AT: loss on `all` episodes in a row, or on the `last`.
        window: RADT: steps of a piece of a trajectory, and of what followed it.
    """

    episodes: int = 4
    set_episodes: int = 8
    supervise: Literal["all", "last"] = "all"
    window: int = 8


@dataclass
class RunConfig:
    """The whole pipeline.

    Args:
        family: Task family; `maicc tasks` lists them.
        method: `maicc`, or a rival: maicc/baselines/ has a file for each.
        seed: Every random choice follows from it.
        device: `auto`, `cpu` or `cuda`.
        collect: The dataset.
        embedding: Training of the embedding.
        decision: Training of the decision model, or of the rival.
        baseline: Options of the rivals.
        adapt: Adaptation on unseen tasks; `adapt.memory` is MAICC's alone.
    """

    family: str
    method: Literal["maicc", "madt", "at", "radt", "ad", "dpt", "hissd"] = "maicc"
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    collect: CollectConfig = field(default_factory=CollectConfig)
    embedding: EmbeddingFit = field(default_factory=EmbeddingFit)
    decision: DecisionFit = field(default_factory=DecisionFit)
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)

    def identity(self) -> dict[str, Any]:
        """All that results follow from: everything but where and how wide the work runs."""
        found = self.to_json()
        del found["device"], found["collect"]["workers"], found["adapt"]["memory"]["cache_gib"]
        return found

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def from_json(kind: type, found: Any, where: str) -> Any:
    """A configuration from its `to_json` or `identity`; what is not there has its default.

    Raises:
        UserError: it is none; `where` it was found is named.
    """
    hints = get_type_hints(kind)
    try:
        return kind(
            **{
                name: from_json(hints[name], value, where) if is_dataclass(hints[name]) else value
                for name, value in found.items()
                if name in hints
            }
        )
    except (AttributeError, TypeError):
        raise UserError(
            f"{where}: not the configuration of a run ({found!r:.60}); remove it and make it again"
        ) from None


def check_choices(config: Any, name: str = "") -> None:
    """Raises UserError where an option has a value that is not among its choices."""
    hints = get_type_hints(type(config))
    for option in fields(config):
        key, value = f"{name}.{option.name}".lstrip("."), getattr(config, option.name)
        if is_dataclass(value):
            check_choices(value, key)
        elif get_origin(hints[option.name]) is Literal and value not in get_args(
            hints[option.name]
        ):
            choices = ", ".join(map(str, get_args(hints[option.name])))
            raise UserError(f"{key}={value!r} is not one of: {choices}")


def check_encoder(encoder: str, spec: Spec) -> None:
    """Raises UserError where entities are asked for and the family does not say where they are."""
    if encoder == "entities" and spec.layout is None:
        raise UserError(
            f"encoder=entities needs to know where an observation of {spec.family} holds whom; "
            "give its TaskFamily a layout (maicc.types.ObsLayout), or set encoder=flat"
        )
