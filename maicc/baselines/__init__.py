"""All methods in one harness: the same encoders, transformer, adaptation and results.

The dataset is the same too, but for AD, which has one of its own if the family has an expert.
`METHODS` describes each method; nothing here imports torch. A rival is trained for as many steps as
MAICC's decision model, on as many supervised trajectories in each. How it follows its paper is told
in its own file.
"""

from __future__ import annotations

from collections.abc import Mapping

from maicc.baselines.maicc import MAICC
from maicc.baselines.method import Method
from maicc.baselines.rivals import RIVALS
from maicc.errors import did_you_mean
from maicc.types import UserError

METHODS: Mapping[str, Method] = {method.name: method for method in (MAICC(), *RIVALS)}


def method_of(name: str) -> Method:
    """Finds a method by the name that users type.

    Raises:
        UserError: there is none of that name.
    """
    if not isinstance(name, str) or name not in METHODS:
        near = did_you_mean(str(name), METHODS)
        raise UserError(f"method={name!r} is not one of: {', '.join(METHODS)}{near}")
    return METHODS[name]
