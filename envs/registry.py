"""Names of task families: built in, registered, installed, or at `module:attribute`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from importlib.metadata import entry_points
from operator import attrgetter

from maicc.envs.tasks import REVEALED, TaskFamily
from maicc.errors import did_you_mean, located
from maicc.types import UserError

ENTRY_POINTS = "maicc.task_families"
_BUILT_IN = {
    **{name: f"maicc.envs.games.lbf:{name}" for name in ("lbf_7x7", "lbf_8x8", "lbf_9x9")},
    **{
        name: f"maicc.envs.games.{name}:{name}"
        for name in ("lbf_levels", "lbf_partners", "smax_commander", "mpe_codebook")
    },
    **{
        name: f"maicc.envs.games.smax:{name}"
        for name in ("smax_protoss", "smax_terran", "smax_zerg", "smax_all")
    },
    **{
        name: f"maicc.envs.games.smac:{name}"
        for name in ("smac_protoss", "smac_terran", "smac_zerg", "smac_all")
    },
}

_registered: dict[str, TaskFamily] = {}
_renamed: dict[str, tuple[TaskFamily, TaskFamily]] = {}  # under its own name, and under this one


def register(family: TaskFamily) -> TaskFamily:
    """Makes a family known by its name in this process."""
    _registered[family.name] = family
    return family


def _plugins() -> dict[str, str]:
    """Targets `module:attribute` of the families installed as entry points, by name."""
    return {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}


def families() -> Sequence[str]:
    """Names of all families known here: built in, registered, or installed as entry points."""
    return sorted({*_BUILT_IN, *_registered, *_plugins()})


def get_family(name: str) -> TaskFamily:
    """Finds the family of that name, or the one at `module:attribute`.

    A name that ends with `+revealed` is the family whose observations tell the hidden part.

    Raises:
        UserError: there is none, or the object at `module:attribute` is no TaskFamily.
    """
    if name.endswith(REVEALED):
        return get_family(name.removesuffix(REVEALED)).revealed()
    if name in _registered:
        return _registered[name]
    target = _BUILT_IN.get(name) or _plugins().get(name) or (name if ":" in name else None)
    if target is None:
        near, module = did_you_mean(name, families()), name.removesuffix(".py")
        if os.path.exists(f"{module}.py"):
            near = f"; write {module}:NAME for the family NAME in {module}.py"
        raise UserError(f"no task family {name!r}{near}; there are: {', '.join(families())}")
    module, _, attribute = target.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")]):
        raise UserError(
            f"{target!r} is no MODULE:ATTRIBUTE: write my_module:my_family for `my_family` in the "
            "file my_module.py of this folder"
        )
    if ":" in name and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a console script does not look there by itself
    try:
        family = attrgetter(attribute)(import_module(module))
    except Exception as error:  # whatever the user's module does
        hint = "; leave .py out" if module.endswith(".py") else ""
        raise UserError(
            f"task family {name!r} can't be loaded from {target}: {located(error, __file__)}{hint}"
        ) from error
    if not isinstance(family, TaskFamily):
        raise UserError(f"{target} is a {type(family).__name__}, expected a maicc.envs.TaskFamily")
    if family.name == name:
        return family
    # what is written down with a dataset or model must lead back here
    pair = _renamed.get(name)
    if pair is None or pair[0] is not family:
        pair = _renamed[name] = (family, replace(family, name=name))
    return pair[1]


def importable(family: TaskFamily) -> bool:
    """Tells whether another process finds this family by its name."""
    try:
        return family.name not in _registered and get_family(family.name) == family
    except UserError:
        return False
