"""Options that all methods share, and MAICC's own, each with its default and its limits.

YAML files and the command line fill these in. Options of the rivals are in baselines/options.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal

from maicc.schema import identity, limited
from maicc.types import Spec, UserError

OWN_RUNS = ("adapt.runs", "adapt.training_runs", "adapt.traces")  # not those of a benchmark
MOST_SEED = 2**31 - 1  # torch's seeds, which are made of it, have 64 bits


@dataclass
class CollectConfig:
    """Collection of the dataset.

    Args:
        episodes: Episodes per training task and level.
        levels: Mean returns to aim at, as shares of the maximum; one behaviour policy each.
        anneal: Levels of a learning history, in place of `levels`: the expert's rates of random
            actions, which fall evenly from 1 to 0. The episodes that `levels` would make are spread
            over them: each level gets `episodes` times the number of `levels`, divided by `anneal`
            and rounded, but at least one episode per training task. 0 uses `levels`.
        explorer: Add one more behaviour: the family's scripted explorer, which knows nothing of
            the task. A team that was trained on exploration can imitate it.
        workers: Processes; 0 takes every core that it may use. The data are the same for any
            number.
    """

    episodes: int = limited(200, 1)
    levels: list[float] = field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0])
    anneal: int = limited(0, 0)
    explorer: bool = False
    workers: int = limited(0, 0, changes_results=False)


@dataclass
class OptimiserConfig:
    """Settings of the optimiser, AdamW.

    Args:
        learning_rate: The highest rate of the schedule.
        weight_decay: Decoupled weight decay.
        schedule: `one_cycle` rises and falls over the whole fit, `constant` stays.
    """

    learning_rate: float = limited(1e-3, 0, ends="()")
    weight_decay: float = limited(1e-4, 0)
    schedule: Literal["one_cycle", "constant"] = "one_cycle"


@dataclass
class TransformerConfig:
    """Sizes of a transformer, and its way of reading observations.

    Args:
        width: Width of the model.
        layers: Transformer layers.
        heads: Attention heads.
        dropout: Dropout; above 0 attention on a CPU takes a slower path.
        encoder: The way observations are read. `flat`: as one padded vector (the paper). `fourier`:
            as one vector, each number also by its sine and cosine at wavelengths of 2, 4, 8, 16
            and 32. `entities`: by a transformer layer over the agent itself, its allies and its
            enemies, with attacks aimed at enemies; for families that give an observation layout.
    """

    width: int = limited(64, 1)
    layers: int = limited(4, 1)
    heads: int = limited(4, 1)
    dropout: float = limited(0.0, 0, 1, "[)")
    encoder: Literal["flat", "fourier", "entities"] = "flat"


@dataclass
class PolicyConfig(TransformerConfig):
    """A transformer that chooses actions, and reads observations by `fourier` by default.

    Args:
        label_smoothing: Label smoothing of the cross-entropy. Above 0 a team that samples actions
            takes some of them at random.
    """

    encoder: Literal["flat", "fourier", "entities"] = "fourier"
    label_smoothing: float = limited(0.0, 0, 1)


@dataclass
class EmbeddingConfig(TransformerConfig):
    """Teacher and student (METHOD.md, sections 3 and 4).

    Args:
        teacher: Distil the student from a centralised teacher; false is MAICC-S.
        attention: Attention of the teacher: `joint` over all tokens of the episode (the paper), or
            `factored`, over the team and over time in turns, for long episodes and large teams.
        credit: The head that predicts individual rewards: one on the student's own tokens
            (`local`), or the teacher's, applied to the distilled token (`teacher`, the paper's
            way).
        return_to_go: Feed return-to-go tokens as well (an ablation).
        action_weight: Weight of the action loss.
        reward_weight: Weight of the reward loss.
        dynamics_weight: Weight of the dynamics loss.
        distillation: Distance between student and teacher: mean squared error (the authors' code)
            or the KL divergence between the softmax of both (the paper).
        distillation_weight: Weight of the distillation loss.
    """

    teacher: bool = True
    attention: Literal["joint", "factored"] = "joint"
    credit: Literal["local", "teacher"] = "local"
    return_to_go: bool = False
    action_weight: float = limited(1.0, 0)
    reward_weight: float = limited(1.0, 0)
    dynamics_weight: float = limited(1.0, 0)
    distillation: Literal["mse", "kl"] = "mse"
    distillation_weight: float = limited(1.0, 0)


@dataclass
class DecisionConfig(PolicyConfig):
    """MAICC's decision transformer (METHOD.md, section 6).

    Args:
        k: Trajectories that are retrieved in each step; 0 for none.
        record: Episodes of the agent's own that are read, each on its own, beside the context
            (METHOD.md, section 12); 0 for none (the paper).
        record_steps: Most steps of a record. Each episode may have `record_steps / record` of
            them, one at least. Of a longer episode every so many-th step is read.
        tokens: `fused`, one token per step, or `four`, the paper's g o a p.
        context: `independent`, each retrieved trajectory is encoded on its own, or `concatenated`,
            attention runs causally through all of them (the paper).
        supervise: Loss on `all` steps of the current trajectory, or on the action that follows the
            query's prefix (`last`, the authors' code).
        labels: Actions that are learned: those of the `behaviour` policies that played (the paper),
            or those that the best of them would have chosen (`expert`), which the dataset keeps.
            `auto` is `expert` where the dataset has them.
        return_to_go: Read the running trajectory's return-to-go with labels `expert` too (an
            ablation). With labels `behaviour` it is always read.
        hidden_weight: Weight of a second loss in training: the model tells the hidden part of the
            task from what it has read, where the family has a `reveal`. Nothing is revealed to a
            team that acts. 0 leaves the loss out.
    """

    k: int = limited(0, 0)
    record: int = limited(8, 0)
    record_steps: int = limited(1024, 1)
    tokens: Literal["fused", "four"] = "fused"
    context: Literal["independent", "concatenated"] = "independent"
    supervise: Literal["all", "last"] = "all"
    labels: Literal["auto", "expert", "behaviour"] = "auto"
    return_to_go: bool = False
    hidden_weight: float = limited(1.0, 0)


@dataclass
class RetrievalConfig:
    """Search for contexts while the decision model is trained (METHOD.md, section 6).

    Args:
        candidates: Number of nearest trajectories that are scored.
        s_max: Similarity from which a candidate is a near-copy. Near-copies come second.
        index: A FAISS index_factory string; `Flat` is exact.
        source: Trajectories that may be retrieved. `dataset`: all but those of the query's own
            episode (the paper). `other_tasks`: those of other tasks, as the dataset has no episode
            of the task that is played at test time. `own`: those of a memory such as the agent has
            at test time, drawn from its episodes in the task; the record is chosen from the same
            memory, and both as at test time.
        memory: Most episodes of such a memory, unless a record holds more.
    """

    candidates: int = limited(50, 1)
    s_max: float = limited(0.9, -1, 1)
    index: str = "Flat"
    source: Literal["dataset", "other_tasks", "own"] = "dataset"
    memory: int = limited(32, 1)


@dataclass
class FitConfig:
    """Training of one network.

    Args:
        optimiser: AdamW and its schedule.
        batch_size: Trajectories that are supervised in a step.
        steps: Gradient steps.
        held_back: Share of the dataset that is not trained on. Every few hundred steps the losses
            are computed on it too. It is whole tasks where that makes four or more, and else
            episodes, an even share of every task and behaviour. 0 trains on all.
    """

    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    batch_size: int = limited(96, 1)
    steps: int = limited(3500, 1)
    held_back: float = limited(0.02, 0, 0.5)


@dataclass
class EmbeddingFit(FitConfig):
    """Training of the embedding.

    Args:
        batch_size: Episodes per step, all of one task.
        model: Teacher and student.
        window: Steps of each episode that are shown, from a random one on; 0 shows all.
        tokens: Most tokens of the teacher per step. Larger teams get smaller batches, but at least
            one episode. 0 sets no limit.
    """

    model: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    batch_size: int = limited(32, 1)
    steps: int = limited(1000, 1)
    window: int = limited(0, 0)
    tokens: int = limited(0, 0)


@dataclass
class DecisionFit(FitConfig):
    """Training of MAICC's decision model.

    Args:
        model: The decision transformer.
        retrieval: Search for training contexts.
        share: Queries of one agent in one task that share a record, which is then encoded once.
        failures: Share of the memories that hold only episodes which missed the maximum, as a
            searching team has them.
        informed_failures: Whether records in training may hold failures of the expert. It sees
            what the task hides, so that its actions give the answer away. A team that has learned
            to read them trusts its own guesses.
    """

    model: DecisionConfig = field(default_factory=DecisionConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    share: int = limited(4, 1)
    failures: float = limited(0.5, 0, 1)
    informed_failures: bool = False


@dataclass
class PracticeFit(FitConfig):
    """Practice of a trained team on training tasks (METHOD.md, section 12).

    In each round the team adapts to training tasks, and at every step the best behaviour policy
    tells what it would have done. Training then goes on, half of it on these runs: an agent's
    record is what the agent had lived through at that time.

    Args:
        rounds: Rounds of play and training; 0 for no practice.
        runs: Adaptation runs of a round, spread over the training tasks.
        episodes: Episodes of a run.
        optimiser: AdamW and its schedule in each round.
        steps: Gradient steps of a round.
    """

    rounds: int = limited(0, 0)
    runs: int = limited(72, 1)
    episodes: int = limited(8, 1)
    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(learning_rate=3e-4))
    steps: int = limited(300, 1)


@dataclass
class MemoryConfig:
    """Memory of a team and its look-ups at test time (METHOD.md, sections 7 and 12).

    Args:
        schedule: Rule for how often the offline memory is asked and actions are sampled.
            `until_solved`: every action is sampled while none of the latest episodes reached the
            goal, and the best one is taken from then on; offline is asked the more often, the
            further the best of the latest returns is from the goal. `evidence`: actions are sampled
            by that distance too. Neither needs a number of episodes. `decay`: the paper's.
            `fixed`: as often as `beta` says.
        window: Number of latest episodes that count in `evidence` and `until_solved`. A team that
            has lost its way explores again once its good episodes are older.
        goal: Goal of these two: the family's `maximum` return, the best return in the `dataset`,
            or, for `until_solved`, the run's `own` best return, once `window` episodes in a row
            have not beaten it. `auto` is `own` for `until_solved` in families that do not state
            their bounds, and else `maximum`.
        source: Memory that is looked up: a `blend` of the dataset and the agent's own episodes, as
            the schedule says, or its `own` episodes alone.
        floor: Least probability of asking the offline memory in `evidence` and `until_solved`, also
            when the goal is reached. Half of it is the least probability of sampling in `evidence`.
        decay: Lambda of the schedule `decay`.
        beta: Share of offline look-ups under `fixed`: 0 is online only, 1 offline only.
        toss: The coin between the memories falls at each `step` (the authors' code) or once per
            `episode` (the paper).
        draws: Random numbers of coins, ties and samples: each agent's `own`, or the same ones for
            all agents, from a seed that the team has `shared` before the first episode. These
            agents choose alike as far as their models agree.
        redraw: Random numbers are drawn anew at each `step`, or once per `episode`.
        replay: An agent that does not sample repeats its own action of the latest episode that
            reached the goal, where it sees the same in the same step. Else the model chooses.
        candidates: Number of nearest trajectories that are scored.
        alpha: Weight of the team return against the predicted individual return.
        score: Score of a trajectory. `paper`: cos + alpha R + (1 - alpha) R_ind. `code`, the
            authors': (cos + 1) / 2, and R_ind for online trajectories only. `similarity`: no
            utility (a control). `random`: no similarity either (a control).
        margin: Largest distance of a shown trajectory's score from the best score. Trajectories
            further below are left out, and better ones are shown again in their place. `.inf` shows
            the k best, however bad they are (the paper).
        max_episodes: Most episodes that an agent keeps. When it is full, the episode with the
            lowest return is dropped, among equal ones the oldest. 0 keeps all.
        cache_gib: Memory in GiB for the keys and values of trajectories that were looked up, and as
            much for those of own episodes. When it is full, they are computed anew.
    """

    schedule: Literal["until_solved", "evidence", "decay", "fixed"] = "until_solved"
    window: int = limited(5, 1)
    goal: Literal["auto", "maximum", "dataset", "own"] = "auto"
    source: Literal["blend", "own"] = "blend"
    floor: float = limited(0.005, 0, 1)
    decay: float = limited(4.605170186, 0)
    beta: float = limited(0.5, 0, 1)
    toss: Literal["step", "episode"] = "step"
    draws: Literal["own", "shared"] = "own"
    redraw: Literal["step", "episode"] = "step"
    replay: bool = True
    candidates: int = limited(50, 1)
    alpha: float = limited(1.0, 0, 1)
    score: Literal["paper", "code", "similarity", "random"] = "paper"
    margin: float = limited(0.3, 0, ends="[]")
    max_episodes: int = limited(0, 0)
    cache_gib: float = limited(0.5, 0, changes_results=False)


@dataclass
class AdaptConfig:
    """Adaptation on unseen tasks.

    Args:
        episodes: Adaptation episodes of each run.
        runs: Runs on held-out tasks, in lock step; tasks repeat when there are fewer. Run i of
            seed s has the seed 1000 s + i.
        training_runs: Runs on training tasks, for comparison; written to a file of their own.
        traces: Runs of `maicc run` and `maicc adapt` that are traced, the first ones: what agents
            saw and did, and what they remembered. `maicc replay` shows them. Their number may
            change the last digits of probabilities, as the size of a batch does.
    """

    episodes: int = limited(100, 1)
    runs: int = limited(16, 1, 1000)
    training_runs: int = limited(9, 0, 1000)
    traces: int = limited(2, 0, changes_results=False)

    def identity(self) -> dict[str, Any]:
        """Options that change a run's result; models, tasks and seed come on top."""
        options = identity(self)
        del options["runs"], options["training_runs"]
        return options


@dataclass
class MaiccAdapt(AdaptConfig):
    """Adaptation of MAICC's teams.

    Args:
        memory: How a team remembers and looks up.
    """

    memory: MemoryConfig = field(default_factory=MemoryConfig)


@dataclass
class RunConfig:
    """Options of a run that every method has; each method's own class adds its fits.

    Args:
        family: Task family; `maicc tasks` lists them.
        method: `maicc`, or a rival: maicc/baselines/ has a file for each.
        seed: Seed from which every random choice follows.
        device: `auto`, `cpu` or `cuda`.
        precision: Numbers of matrix products in training: `fp32`, or `bf16` with weights in fp32,
            which is quicker where the processor has it.
        logger: Where the losses of a fit go: FIT/metrics.csv, beside the fit's checkpoint (`csv`),
            this file and `tensorboard`, `wandb` or `mlflow`, or nowhere (`none`).
        collect: The dataset.
        adapt: Adaptation on unseen tasks.
    """

    family: str
    method: str = "maicc"
    seed: int = limited(0, 0, MOST_SEED)
    device: Literal["auto", "cpu", "cuda"] = field(
        default="auto", metadata={"changes_results": False}
    )
    precision: Literal["fp32", "bf16"] = "fp32"
    logger: Literal["csv", "tensorboard", "wandb", "mlflow", "none"] = field(
        default="csv", metadata={"changes_results": False}
    )
    collect: CollectConfig = field(default_factory=CollectConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)

    def identity(self) -> dict[str, Any]:
        """Options that change results: all but those of where and how wide the work runs."""
        return identity(self)


@dataclass
class MaiccRun(RunConfig):
    """A run of MAICC.

    Args:
        embedding: Training of the embedding, which retrieval needs; left out if k is 0.
        decision: Training of the decision model.
        practice: Practice on training tasks.
    """

    embedding: EmbeddingFit = field(default_factory=EmbeddingFit)
    decision: DecisionFit = field(default_factory=DecisionFit)
    practice: PracticeFit = field(default_factory=PracticeFit)
    adapt: MaiccAdapt = field(default_factory=MaiccAdapt)


def check_schedule(memory: MemoryConfig, name: str) -> None:
    """Refuses a goal that the schedule does not know.

    Args:
        name: Name of the section of options.

    Raises:
        UserError: names both options.
    """
    if memory.goal == "own" and memory.schedule != "until_solved":
        raise UserError(
            f"{name}.goal=own needs {name}.schedule=until_solved, not {memory.schedule}: no other "
            "schedule waits for a run to settle"
        )


def check_read(memory: MemoryConfig, name: str) -> None:
    """Refuses changed options that the schedule does not read.

    Args:
        name: Name of the section of options.

    Raises:
        UserError: names the option and the schedules that read it.
    """
    read_by = {"beta": ("fixed",), "decay": ("decay",), "window": ("until_solved", "evidence")}
    for option, schedules in read_by.items():
        changed = getattr(memory, option) != getattr(MemoryConfig(), option)
        if changed and memory.schedule not in schedules:
            raise UserError(
                f"{name}.{option} is read with {name}.schedule={' or '.join(schedules)}, not with "
                f"{memory.schedule}: set the schedule too, or leave {option} out"
            )


def check_logger(logger: str) -> None:
    """Checks that the package of a logger is installed.

    Raises:
        UserError: it is not; the error names the extra.
    """
    if logger not in ("csv", "none") and find_spec(logger) is None:
        raise UserError(f'logger={logger} needs a package: pip install "maicc[{logger}]"')


def check_encoder(encoder: str, spec: Spec) -> None:
    """Checks that a family whose entities are to be read has an observation layout.

    Raises:
        UserError: it has none.
    """
    if encoder == "entities" and spec.layout is None:
        raise UserError(
            f"encoder=entities needs to know where an observation of {spec.family} holds whom; "
            "give its TaskFamily a layout (maicc.types.ObsLayout), or set encoder=fourier"
        )
