"""Folder of a run: its configuration and its files, also of version 0.1. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maicc.baselines import method_of
from maicc.config import RunConfig
from maicc.data.dataset import EpisodeFile
from maicc.files import ModelFiles, read_json
from maicc.schema import from_json


def read_config(folder: str | Path) -> RunConfig:
    """Reads the configuration of a run; a folder without config.json gives MAICC's defaults.

    Raises:
        UserError: config.json is damaged, or names no method.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        spec = EpisodeFile(ModelFiles.in_folder(folder).episodes).spec
        return method_of("maicc").config(spec.family)
    return parse_config(read_json(path), str(path))


def parse_config(stored: Any, where: str) -> RunConfig:
    """Makes a configuration, of its method's own class, from the content of config.json.

    Args:
        stored: The content.
        where: Place of the content, for the error.

    Raises:
        UserError: it is no configuration.
    """
    base: RunConfig = from_json(RunConfig, stored, where)
    try:
        options = upgraded(stored)
    except (KeyError, TypeError):
        options = None  # from_json says what is wrong
    return from_json(method_of(base.method).config, options, where)


def upgraded(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Rewrites a configuration of version 0.1, with one section for all rivals.

    Its dataset stays as it was made.
    """
    if "baseline" not in stored:
        return dict(stored)
    decision = stored["decision"]
    model = {"record": 0, **decision["model"], **stored["baseline"]}
    rivals_own = {**stored, "decision": {**decision, "model": model}}
    adapt = stored["adapt"]
    rivals_own["adapt"] = {**adapt, "memory": {"replay": False, **adapt["memory"]}}
    adopted = method_of(stored["method"]).adopt(rivals_own)
    return {**adopted, "collect": stored["collect"]}


def rename_old_files(folder: Path, config: RunConfig) -> None:
    """Gives files of version 0.1 their names of today."""
    for old, new in method_of(config.method).renamed.items():
        if (folder / old).exists() and not (folder / new).exists():
            os.replace(folder / old, folder / new)


def files_of(folder: str | Path, config: RunConfig) -> ModelFiles:
    """Names the dataset and the checkpoints of a run."""
    return ModelFiles.in_folder(folder, method_of(config.method).fits_of(config))
