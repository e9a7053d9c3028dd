"""What is a retrieved context worth? The decision model's error with it, and with another's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from maicc.config import RetrievalConfig
from maicc.files import ModelFiles
from maicc.training.modules import DecisionModule, load_module
from maicc.training.retrieval_data import RetrievalData
from maicc.types import Trajectories, UserError

_SEED, _QUERIES = 90, 48


def context_value(
    files: ModelFiles, retrieval: RetrievalConfig | None = None, batches: int = 20
) -> dict[str, Any]:
    """Cross-entropy and accuracy on the dataset's actions, with the contexts that were retrieved
    for a query and with those of other queries.

    If both are alike, the contexts tell the model nothing that it does not see anyway: a memory
    can't help then, however good it is.

    Args:
        retrieval: That of the model's training.
        batches: Of 48 queries each.

    Raises:
        UserError: the model takes no context.
    """
    module = load_module(files["decision"], DecisionModule)
    net, k = module.net, module.config.k
    if k == 0:
        raise UserError(f"{files['decision']}: trained without context (decision.model.k=0)")
    family = module.spec.family
    data = RetrievalData(
        family,
        str(files.episodes),
        str(files["embedding"]),
        k,
        _QUERIES,
        _SEED,
        retrieval or RetrievalConfig(),
    )
    data.setup("fit")
    found: dict[str, list[tuple[float, float]]] = {"retrieved": [], "of other queries": []}
    drawn = data.batches(0)
    with torch.no_grad():
        for _ in range(batches):
            batch = next(drawn)
            others = Trajectories(*(part.roll(1, 0) for part in batch.contexts))
            for name, contexts in zip(found, (batch.contexts, others), strict=True):
                loss, accuracy = net.loss(batch._replace(contexts=contexts))
                found[name].append((float(loss), float(accuracy)))
    return {
        name: dict(zip(("loss", "accuracy"), np.mean(each, 0).round(4).tolist(), strict=True))
        for name, each in found.items()
    }
