"""A run: its configuration and its files, in a folder or in a bundle. Imports no torch.

Folders may be of version 0.1. A bundle is one file, which bundle.py makes of a folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from maicc.baselines import method_of
from maicc.config import RunConfig
from maicc.data.dataset import EpisodeFile
from maicc.envs import get_family
from maicc.evaluation.archive import read_json_member, unpack
from maicc.files import ModelFiles, read_json
from maicc.schema import check_options, from_json
from maicc.types import Spec, UserError

BUNDLE = ".maicc"  # of bundles


def is_bundle(run: str | Path) -> bool:
    """Tells whether this is the name of a bundle, not of a run's folder.

    Raises:
        UserError: it is a file of another name.
    """
    run = Path(run)
    if run.is_file() and run.suffix != BUNDLE:
        raise UserError(f"{run}: expected the folder of a run, or a bundle named NAME{BUNDLE}")
    return run.suffix == BUNDLE and not run.is_dir()


@contextmanager
def opened(run: str | Path) -> Iterator[tuple[RunConfig, ModelFiles]]:
    """Gives configuration and files of a run; a bundle's files exist inside the block only.

    Raises:
        UserError: a file is missing or damaged, or a bundle is of other tasks than its family has.
    """
    run = Path(run)
    config = read_config(run)
    if not is_bundle(run):
        rename_old_files(run, config)
        files = files_of(run, config)
        require_own_dataset(files.episodes)
        yield config, files
        return
    with TemporaryDirectory(prefix="maicc-") as name:
        folder = Path(name)
        try:
            unpack(run, folder)
            _check_bundle(run, folder)
            check_options(config)
            method = method_of(config.method)
            fits = (*method.fits, *method.acting(config))
            weights = {fit: folder / f"{fit}.safetensors" for fit in fits}
            yield config, ModelFiles(folder / "episodes.h5", weights)
        except UserError as error:
            raise UserError(str(error).replace(f"{name}{os.sep}", f"{run}: ")) from None


def _check_bundle(run: Path, folder: Path) -> None:
    """Checks that the unpacked files belong together, and fit their family where it is known.

    Raises:
        UserError: they do not.
    """
    dataset, stored = EpisodeFile(folder / "episodes.h5"), read_json(folder / "config.json")
    try:
        spec = Spec.from_json(read_json(folder / "spec.json"))
    except (AttributeError, TypeError, ValueError):
        raise UserError(f"{run}: its spec.json can't be read; make it anew") from None
    dataset.require(spec)
    try:
        family = get_family(spec.family)
    except UserError:
        return  # a team acts without its family, and whoever needs the family will say so
    dataset.require(family.spec)
    if stored.get("tasks", family.fingerprint) != family.fingerprint:
        raise UserError(
            f"{run}: trained on a {spec.family} with other tasks or rules than {spec.family} has "
            f"here; use the version of the family, or of maicc ({stored.get('version')}), that it "
            "was made with"
        )


def read_config(run: str | Path) -> RunConfig:
    """Reads the configuration of a run; a folder without config.json gives MAICC's defaults.

    Args:
        run: Folder or bundle.

    Raises:
        UserError: config.json is damaged, or names no method.
    """
    stored = read_stored(run)
    if not Path(run).exists():
        raise UserError(f"{run}: no such folder; `maicc run NAME --out {run}` makes it")
    if stored is None and not (Path(run) / "episodes.h5").exists():
        raise UserError(f"{run}: not the folder of a run, since it has no config.json")
    if stored is None:
        spec = EpisodeFile(ModelFiles.in_folder(run).episodes).spec
        return method_of("maicc").config(spec.family)
    where = f"{run}: config.json" if is_bundle(run) else str(Path(run) / "config.json")
    return parse_config(stored, where)


def read_stored(run: str | Path) -> Any:
    """Reads config.json of a run's folder or bundle; None if a folder has none.

    It holds the options, and what the run noted down of its family.

    Raises:
        UserError: it is damaged.
    """
    path = Path(run) / "config.json"
    if is_bundle(run):
        return read_json_member(Path(run), path.name)
    return read_json(path) if path.exists() else None


def read_results(folder: Path) -> dict[str, Any]:
    """Reads the results of a run that are there, by the kind of their tasks."""
    named = {"held-out tasks": "result.json", "training tasks": "training.json"}
    paths = {kind: folder / "adapt" / name for kind, name in named.items()}
    return {kind: read_json(path) for kind, path in paths.items() if path.exists()}


def require_own_dataset(episodes: Path) -> None:
    """Refuses a run's dataset that is not the one from which its models were made.

    Raises:
        UserError: the fingerprint in the folder's dataset.json is another one.
    """
    noted = episodes.parent / "dataset.json"
    if noted.exists() and read_json(noted) != {"fingerprint": EpisodeFile(episodes).fingerprint}:
        raise UserError(
            f"{episodes} is another dataset than the one that the models in {noted.parent} were "
            "made from; put that one back, or start a run in another folder"
        )


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
    model = {"record": 0, "hidden_weight": 0.0, **decision["model"], **stored["baseline"]}
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
