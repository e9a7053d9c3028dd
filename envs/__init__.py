"""Task families, and PettingZoo environments stepped in lock step."""

from maicc.envs.batch import BatchEnv, BatchStep
from maicc.envs.tasks import TaskFamily, families, get_family, importable, register

__all__ = [
    "BatchEnv",
    "BatchStep",
    "TaskFamily",
    "families",
    "get_family",
    "importable",
    "register",
]
