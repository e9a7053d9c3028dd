"""MAICC itself, described like every other method (METHOD.md)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from maicc.baselines.method import HIDDEN_PART, WHOSE_EPISODES, Method, Trained
from maicc.config import MaiccRun, MemoryConfig, RetrievalConfig, check_read, check_schedule
from maicc.data.behaviour import informed
from maicc.envs import get_family
from maicc.files import ModelFiles
from maicc.types import Spec, UserError

if TYPE_CHECKING:
    from maicc.data.dataset import EpisodeFile
    from maicc.training.family_data import FamilyData
    from maicc.training.modules import MaiccModule


_PRACTICE = "practice"  # fits practice1, practice2, ..., one for each round


class MAICC(Method):
    """MAICC: a decision model that reads an agent's record, and what an embedding retrieves."""

    name = "maicc"
    config = MaiccRun
    fits = ("embedding", "decision")

    def fits_of(self, config: MaiccRun) -> tuple[str, ...]:
        """Leaves the embedding out where nothing is retrieved; practice adds a fit per round."""
        embedding = ("embedding",) if config.decision.model.k else ()
        rounds = range(1, config.practice.rounds + 1)
        return (*embedding, "decision", *(f"{_PRACTICE}{i}" for i in rounds))

    def acting(self, config: MaiccRun) -> tuple[str, ...]:
        """Adds the embedding, which makes the keys, where something is looked up."""
        embedding = ("embedding",) if self.looks_up(config) else ()
        return (*embedding, *super().acting(config))

    def looks_up(self, config: MaiccRun) -> bool:
        return config.decision.model.k > 0

    def reads(self, fit: str) -> tuple[str, ...]:
        # a team practises with the memory that it will have
        return ("practice", "adapt.memory") if fit.startswith(_PRACTICE) else (fit,)

    def starts_from(self, fit: str, files: ModelFiles) -> Path | None:
        if not fit.startswith(_PRACTICE):
            return None
        before = int(fit.removeprefix(_PRACTICE)) - 1
        return files[f"{_PRACTICE}{before}" if before else "decision"]

    def played_runs(self, fit: str, files: ModelFiles) -> Path | None:
        return files[fit].with_suffix(".runs.npz") if fit.startswith(_PRACTICE) else None

    def prepare(
        self, fit: str, config: MaiccRun, files: ModelFiles
    ) -> tuple[type[MaiccModule], Any, FamilyData]:
        from maicc.training import (
            DecisionModule,
            EmbeddingModule,
            EpisodeData,
            PracticeData,
            RecordData,
            RetrievalData,
        )

        path, seed = str(files.episodes), config.seed
        if fit == "embedding":
            e = config.embedding
            data: FamilyData = EpisodeData(
                config.family, path, e.batch_size, seed, e.window, e.tokens, e.held_back
            )
            return EmbeddingModule, e.model, data
        d, practice = config.decision, self.played_runs(fit, files)
        options: dict[str, Any] = {
            "family": config.family,
            "path": path,
            "k": d.model.k,
            "batch_size": d.batch_size,
            "seed": seed,
            "retrieval": d.retrieval,
            "held_back": d.held_back,
        }
        if d.model.k:
            options["embedding"] = str(files["embedding"])
        own = d.model.k > 0 and d.retrieval.source == "own"
        if d.model.record or own:
            options |= {"record": d.model.record, "share": d.share, "failures": d.failures}
            options["informed_failures"] = d.informed_failures
        if practice is not None:
            p = config.practice
            options |= {"batch_size": p.batch_size, "held_back": p.held_back}
            practised = int(fit.removeprefix(_PRACTICE))
            data = PracticeData(str(practice), practised, **options)
        elif d.model.record or own:
            data = RecordData(**options)
        else:
            data = RetrievalData(**options)
        return DecisionModule, d.model, data

    def load(self, config: MaiccRun, files: ModelFiles, spec: Spec | None, device: str) -> Trained:
        from maicc.baselines.trained import TrainedMAICC

        acting = self.fits_of(config)[-1]
        return TrainedMAICC(files, spec, device, config.decision.retrieval.index, acting)

    def told(self, config: MaiccRun, dataset: EpisodeFile) -> str:
        fit, model, family = config.decision, config.decision.model, get_family(config.family)
        looks_up, expert = model.k > 0, model.labels == "expert"
        remembers = model.record or (looks_up and fit.retrieval.source == "own")
        if model.labels == "auto":
            expert = dataset.labelled
        signals = {
            "returns": looks_up or not expert or model.return_to_go,
            "tasks": model.k or model.record,
            "the dataset as a memory at test time": looks_up
            and config.adapt.memory.source == "blend",
            "the best behaviour policy's actions": expert,
            WHOSE_EPISODES: remembers
            and not fit.informed_failures
            and informed(family, dataset.behaviours).any(),
            HIDDEN_PART: model.hidden_weight and family.reveal is not None,
            "practice on training tasks": config.practice.rounds,
            # without context the embedding has no part in it
            "all agents' views, for the teacher": model.k and config.embedding.model.teacher,
        }
        return "; ".join(signal for signal, given in signals.items() if given)

    def trained_on(self, config: MaiccRun) -> str:
        e, p, parts = config.embedding, config.practice, [super().trained_on(config)]
        if config.decision.model.k:
            parts.insert(0, f"{e.steps} x {e.batch_size} episodes")
        if p.rounds:
            played = f"{p.runs} runs of {p.episodes} episodes"
            parts.append(f"{p.rounds} x ({played}, {p.steps} x {p.batch_size} trajectories)")
        return ", ".join(parts)

    def needs_expert(self, config: MaiccRun) -> str | None:
        if config.practice.rounds:
            return "practice.rounds"
        return "decision.model.labels=expert" if config.decision.model.labels == "expert" else None

    def key_width(self, config: MaiccRun) -> int:
        return config.embedding.model.width if config.decision.model.k else 0

    def check(self, config: MaiccRun, stored: int) -> None:
        e, d = config.embedding.model, config.decision
        # without look-ups FAISS need not be there; an index that the user names is checked anyway
        if d.model.k or d.retrieval.index != RetrievalConfig().index:
            from maicc.memory.index import empty_index

            empty_index(e.width, d.retrieval.index)
        if d.model.k > stored:
            raise UserError(
                f"decision.model.k={d.model.k} must be between 0 and {stored}, the trajectories of "
                "other episodes in the dataset"
            )
        check_candidates("decision.retrieval", d.retrieval.candidates, d.model.k)
        check_candidates("adapt.memory", config.adapt.memory.candidates, d.model.k)
        check_schedule(config.adapt.memory, "adapt.memory")
        check_read(config.adapt.memory, "adapt.memory")
        memory, usual = config.adapt.memory, MemoryConfig()
        options = ("alpha", "score", "margin")
        if d.retrieval.source == "own" and any(
            getattr(memory, name) != getattr(usual, name) for name in options
        ):
            raise UserError(
                "decision.retrieval.source=own trains with the defaults of adapt.memory.alpha, "
                "score and margin; leave them, or train with another source"
            )
        if d.model.record and d.model.context == "concatenated":
            raise UserError(
                "decision.model.record needs decision.model.context=independent, or 0 episodes"
            )
        if config.practice.rounds and (d.model.record == 0 or d.model.labels == "behaviour"):
            raise UserError(
                "practice.rounds needs decision.model.record above 0 and decision.model.labels="
                "expert or auto: a team practises with a record, and the best behaviour policy "
                "corrects it"
            )
        if e.credit == "teacher" and not e.teacher:
            raise UserError(
                "embedding.model.credit=teacher needs a teacher; set it to local, or "
                "embedding.model.teacher=true"
            )
        if e.attention == "factored" and e.layers < 2:
            raise UserError(
                "embedding.model.attention=factored needs embedding.model.layers=2 or more"
            )


def check_candidates(section: str, candidates: int, k: int) -> None:
    """Refuses fewer candidates than the model reads.

    Args:
        section: Options that `candidates` is one of.
        k: Trajectories that the model reads.

    Raises:
        UserError: names the option.
    """
    if candidates < k:
        raise UserError(f"{section}.candidates={candidates} must be at least {k}, the model's k")
