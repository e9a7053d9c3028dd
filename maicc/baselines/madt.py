"""MADT, the multi-agent decision transformer (Meng et al. 2023): imitation given a return.

Each agent reads its running episode only, as return-to-go, observation and action of each step. It
asks for the family's highest return and acts greedily. It remembers nothing and does not adapt.
"""

from __future__ import annotations

from typing import Any

from maicc.baselines.sequence import SequenceModule
from maicc.models.tokens import ACTION, OBSERVATION, RETURN_TO_GO
from maicc.types import Spec


class MADTModule(SequenceModule):
    """Trains MADT on single episodes; arguments of `BaselineModule`."""

    kind = "madt"
    kinds = (RETURN_TO_GO, OBSERVATION, ACTION)
    explores = False

    @classmethod
    def drawn(cls, model: Any, spec: Spec) -> int:
        return 1
