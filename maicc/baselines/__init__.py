"""The rivals, in one harness: the same dataset, encoders, transformer, adaptation and results.

Every method is supervised on as many trajectories in each step, and for as many steps, as MAICC's
decision model. `METHODS` names them all; each is faithful to its paper as its file describes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maicc.baselines.base import BaselineModule

METHODS = {
    "madt": "MADTModule",
    "at": "ATModule",
    "radt": "RADTModule",
    "ad": "ADModule",
    "dpt": "DPTModule",
    "hissd": "HiSSDModule",
}

# Those that remember nothing and don't adapt
FLAT = ("madt", "hissd")

# What training tells each method besides one agent's observations, actions and outcomes; "tasks" is
# which episodes are of one task
GIVEN = {
    "maicc": "returns; tasks; the dataset as a memory at test time",
    "madt": "returns",
    "at": "returns; tasks",
    "radt": "returns; tasks",
    "ad": "tasks; the level of each behaviour policy",
    "dpt": "tasks; the best behaviour policy's actions",
    "hissd": "tasks; what the whole team observes next",
}


def module_of(method: str) -> type[BaselineModule]:
    """The module that trains and plays a rival; imports torch."""
    found: type[BaselineModule] = getattr(
        import_module(f"maicc.baselines.{method}"), METHODS[method]
    )
    return found
