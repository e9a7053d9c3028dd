from __future__ import annotations

import numpy as np
import pytest

from maicc.evaluation.context_value import context_value
from maicc.experiments.run import run
from maicc.files import ModelFiles
from maicc.training.retrieval_data import RetrievalData
from maicc.types import UserError
from tests.conftest import tiny_config


def test_contexts_that_are_all_alike_are_worth_nothing(tiny_run, monkeypatch):
    files = ModelFiles.in_folder(tiny_run)
    result = context_value(files, batches=2)
    assert result["retrieved"] != result["of other queries"]
    same = lambda self, item, step, rng: np.tile([0, 1, 2], (len(item), 1))  # noqa: E731
    monkeypatch.setattr(RetrievalData, "neighbours", same)
    result = context_value(files, batches=2)
    assert result["retrieved"] == pytest.approx(result["of other queries"], abs=1e-4)


@pytest.mark.slow
def test_a_model_without_context_is_refused(tmp_path):
    config = tiny_config()
    config.decision.model.k = 0
    run(config, tmp_path)
    with pytest.raises(UserError, match="trained without context"):
        context_value(ModelFiles.in_folder(tmp_path))
