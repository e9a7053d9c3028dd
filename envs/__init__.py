"""Task families, and PettingZoo environments stepped in lock step."""

from maicc.envs.adapters import map_observations
from maicc.envs.batch import BatchEnv, BatchStep, batch_env
from maicc.envs.tasks import (
    TaskFamily,
    families,
    get_family,
    importable,
    register,
    sample_tasks,
)

__all__ = [
    "BatchEnv",
    "BatchStep",
    "TaskFamily",
    "batch_env",
    "families",
    "get_family",
    "importable",
    "map_observations",
    "register",
    "sample_tasks",
]
