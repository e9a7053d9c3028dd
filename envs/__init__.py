"""Task families, and PettingZoo environments stepped in lock step."""

if __name__ == "envs":  # the folder's own name: a second copy of every module, unlike the first
    raise ImportError("import maicc.envs: the folder envs/ is a part of the package maicc")


from maicc.envs.adapters import map_observations
from maicc.envs.batch import BatchEnv, BatchStep, batch_env
from maicc.envs.drawing import Drawing, Shape
from maicc.envs.jaxmarl import JaxMARLBatch, from_jaxmarl
from maicc.envs.partners import with_partners
from maicc.envs.registry import families, get_family, importable, register
from maicc.envs.tasks import TaskFamily, sample_tasks

__all__ = [
    "BatchEnv",
    "BatchStep",
    "Drawing",
    "JaxMARLBatch",
    "Shape",
    "TaskFamily",
    "batch_env",
    "families",
    "from_jaxmarl",
    "get_family",
    "importable",
    "map_observations",
    "register",
    "sample_tasks",
    "with_partners",
]
