"""MAICC itself, described like every other method (METHOD.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maicc.baselines.method import Method, Trained
from maicc.config import MaiccRun
from maicc.files import ModelFiles
from maicc.types import Spec, UserError

if TYPE_CHECKING:
    from maicc.training.family_data import FamilyData
    from maicc.training.modules import MaiccModule


class MAICC(Method):
    """MAICC: an embedding of prefixes, and a decision model that reads retrieved trajectories."""

    name = "maicc"
    config = MaiccRun
    fits = ("embedding", "decision")

    def prepare(
        self, fit: str, config: MaiccRun, files: ModelFiles
    ) -> tuple[type[MaiccModule], Any, FamilyData]:
        from maicc.training import (
            DecisionModule,
            EmbeddingModule,
            EpisodeData,
            RecordData,
            RetrievalData,
        )

        path, seed = str(files.episodes), config.seed
        if fit == "embedding":
            e = config.embedding
            data: FamilyData = EpisodeData(
                config.family, path, e.batch_size, seed, e.window, e.tokens
            )
            return EmbeddingModule, e.model, data
        d = config.decision
        options: dict[str, Any] = {
            "family": config.family,
            "path": path,
            "embedding": str(files["embedding"]),
            "k": d.model.k,
            "batch_size": d.batch_size,
            "seed": seed,
            "retrieval": d.retrieval,
        }
        if d.model.record:
            data = RecordData(record=d.model.record, share=d.share, **options)
        else:
            data = RetrievalData(**options)
        return DecisionModule, d.model, data

    def load(self, config: MaiccRun, files: ModelFiles, spec: Spec | None, device: str) -> Trained:
        from maicc.baselines.trained import TrainedMAICC

        return TrainedMAICC(files, spec, device, config.decision.retrieval.index)

    def told(self, config: MaiccRun) -> str:
        model = config.decision.model
        signals = {
            "returns": True,
            "tasks": model.k or model.record,
            "the dataset as a memory at test time": model.k,
            "the best behaviour policy's actions": model.labels == "expert",
            # without context the embedding has no part in it
            "all agents' views, for the teacher": model.k and config.embedding.model.teacher,
        }
        return "; ".join(signal for signal, given in signals.items() if given)

    def trained_on(self, config: MaiccRun) -> str:
        d, e = config.decision, config.embedding
        decision = super().trained_on(config)
        return decision if d.model.k == 0 else f"{e.steps} x {e.batch_size} episodes, {decision}"

    def needs_expert(self, config: MaiccRun) -> str | None:
        return "decision.model.labels=expert" if config.decision.model.labels == "expert" else None

    def key_width(self, config: MaiccRun) -> int:
        return config.embedding.model.width

    def check(self, config: MaiccRun, stored: int) -> None:
        from maicc.memory.index import empty_index

        e, d = config.embedding.model, config.decision
        empty_index(e.width, d.retrieval.index)
        if d.model.k > stored:
            raise UserError(
                f"decision.model.k={d.model.k} must be between 0 and {stored}, the trajectories of "
                "other episodes in the dataset"
            )
        check_candidates("decision.retrieval", d.retrieval.candidates, d.model.k)
        check_candidates("adapt.memory", config.adapt.memory.candidates, d.model.k)
        if d.model.record and d.model.context == "concatenated":
            raise UserError(
                "decision.model.record needs decision.model.context=independent, or 0 episodes"
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
