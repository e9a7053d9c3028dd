"""Worth of retrieved contexts: the decision model's error with them and with other contexts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from maicc.config import DecisionFit
from maicc.files import ModelFiles
from maicc.training.checkpoints import load_module
from maicc.training.modules import DecisionModule
from maicc.training.record_data import RecordData
from maicc.training.retrieval_data import RetrievalData
from maicc.types import UserError

_SEED, _QUERIES = 90, 48


def context_value(
    files: ModelFiles,
    fit: DecisionFit = DecisionFit(),  # noqa: B008 - never changed
    batches: int = 20,
    acting: str = "decision",
) -> dict[str, Any]:
    """Measures the decision model's error with each query's contexts, and with other queries'.

    The error is the cross-entropy and the accuracy on the actions that the model was trained on. If
    it is the same with both, the contexts tell the model nothing that it does not see anyway. Then
    a memory can't help, however good it is.

    Args:
        files: The trained model.
        acting: The fit whose checkpoint holds the decision model.
        fit: The model's training.
        batches: Number of batches, of 48 queries each.

    Raises:
        UserError: the model takes no context.
    """
    module = load_module(files[acting], DecisionModule)
    net, k = module.net, module.config.k
    if k == 0:
        raise UserError(f"{files[acting]}: trained without context (decision.model.k=0)")
    family = module.spec.family
    options: dict[str, Any] = {
        "family": family,
        "path": str(files.episodes),
        "embedding": str(files["embedding"]),
        "k": k,
        "batch_size": _QUERIES,
        "seed": _SEED,
        "retrieval": fit.retrieval,
    }
    record = module.config.record
    data: RetrievalData
    if record or fit.retrieval.source == "own":
        options |= {"share": fit.share, "failures": fit.failures}
        data = RecordData(record=record, informed_failures=fit.informed_failures, **options)
    else:
        data = RetrievalData(**options)
    data.setup("fit")
    shift = getattr(data, "share", 1)  # queries that share a memory stand side by side
    results: dict[str, list[tuple[float, float]]] = {"retrieved": [], "of other queries": []}
    stream = data.batches(0)
    with torch.no_grad():
        for _ in range(batches):
            batch = next(stream)
            others = batch.contexts.each(lambda part: part.roll(shift, 0))
            for name, contexts in zip(results, (batch.contexts, others), strict=True):
                losses = net.loss(batch._replace(contexts=contexts))
                results[name].append((float(losses.actions), float(losses.accuracy)))
    return {
        name: dict(zip(("loss", "accuracy"), np.mean(pairs, 0).round(6).tolist(), strict=True))
        for name, pairs in results.items()
    }
