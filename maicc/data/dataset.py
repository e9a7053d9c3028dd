"""The dataset file: whole episodes of several tasks and behaviours, in HDF5.

Schema 1. Root attributes: `schema` (1), `spec`, `tasks`, `behaviours` (JSON), `header` (SHA-256 of
these three), `fingerprint` (SHA-256 of everything else). The HDF5 datasets are the fields of
`EpisodeBatch`, with the dimensions and kinds that its table gives; a file may lack those that are
not `needed`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from maicc.data.episodes import FIELDS, EpisodeBatch, check_episodes, fill_missing, join, shapes
from maicc.envs import TaskFamily
from maicc.files import hdf5_to_read, hdf5_to_write, locked, same_file, store
from maicc.types import Behaviour, Spec, Task, UserError

SCHEMA = 1
_PART = 256  # episodes that are read together


def labels_known(expert: np.ndarray) -> bool:
    """Says whether most trajectories have labels: actions of the best behaviour policy, (M, T).

    -1 is unknown. An agent may never have had a choice.
    """
    return bool((expert >= 0).any(1).mean() > 0.5)


def require_expert(expert: np.ndarray, who: str = "the model") -> None:
    """Checks that the best behaviour policy's actions, which are to be learned, are known.

    Args:
        who: Who learns them, for the message.

    Raises:
        UserError: they are all unknown.
    """
    if (expert < 0).all():
        raise UserError(
            f"{who} learns the best behaviour policy's actions, and this dataset has none: make it "
            "with `maicc collect` from a family that has an expert or behaviours, or leave it out"
        )


def write_episodes(
    path: str | Path,
    episodes: EpisodeBatch,
    spec: Spec,
    tasks: Sequence[Task],
    behaviours: Sequence[Behaviour],
    *,
    plan: str = "",
    rosters: Sequence[Sequence[str]] = (),
) -> None:
    """Writes a dataset file, whole or not at all. Refuses what `EpisodeFile` would refuse.

    Args:
        plan: Hash of all that a collection follows from.
        rosters: Rosters of tasks, as `TaskFamily.rosters` gives them; none if they are unknown.
    """
    raw = {name: np.asarray(getattr(episodes, name)) for name in FIELDS}
    header = {
        "spec": json.dumps(asdict(spec)),
        "tasks": json.dumps([task.to_json() for task in tasks]),
        "behaviours": json.dumps([asdict(behaviour) for behaviour in behaviours]),
    }
    for start in range(0, max(len(episodes), 1), _PART):
        part = {name: array[start : start + _PART] for name, array in raw.items()}
        check_episodes(str(path), part, spec, len(tasks), len(behaviours), first=start)
    arrays: dict[str, np.ndarray] = {
        name: raw[name].astype(schema.stored or schema.kind, copy=False)
        for name, schema in FIELDS.items()
    }
    digest = hashlib.sha256()
    for name, value in header.items():
        digest.update(name.encode() + value.encode())
    for name, array in arrays.items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    with hdf5_to_write(path) as file:
        file.attrs.update(header, schema=SCHEMA, fingerprint=digest.hexdigest())
        file.attrs["header"] = _header_digest(header)
        file.attrs.update(plan=plan, rosters=json.dumps(list(rosters)))
        for name, array in arrays.items():
            chunks = (min(len(array), 64), *array.shape[1:])
            store(file, name, array, chunks=chunks, compression="lzf")


def _header_digest(header: Mapping[str, Any]) -> str:
    """SHA-256 of what a dataset tells beside its episodes."""
    parts = [str(header.get(name)) for name in ("spec", "tasks", "behaviours")]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def require_fit(where: str, spec: Spec, tasks: Sequence[Task], family: TaskFamily) -> None:
    """Checks that a dataset is of a family: its sizes, and its training tasks.

    Args:
        where: Name of the dataset, for the message.

    Raises:
        UserError: it was made for another family, another size or other tasks.
    """
    _require_spec(where, spec, family.spec)
    ours, theirs = ([task.name for task in listed] for listed in (family.training_tasks, tasks))
    if list(tasks) != family.training_tasks:
        differ = sorted(set(ours) ^ set(theirs))
        what = ", ".join(differ[:4]) or "order or parameters"
        raise UserError(
            f"{where}: made for other training tasks than {family.name} has now ({what}); make it "
            "again"
        )


def _require_spec(where: str, stored: Spec, spec: Spec) -> None:
    """Checks that the spec of a dataset is `spec`, but for bounds that are missing there."""
    expected = spec
    if spec.return_max is None:
        expected = replace(spec, return_min=stored.return_min, return_max=stored.return_max)
    if stored != expected:
        differ = expected.differences(stored)
        raise UserError(f"{where}: made for another family or size: {differ}")


class EpisodeFile:
    """A dataset file, opened when first needed. `read` checks what it reads.

    Raises:
        UserError: the file is missing, damaged, of another schema or breaks it; names the file, the
            field and, where there is one, the episode.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @cached_property
    def _header(self) -> dict[str, Any]:
        if not self.path.exists():
            raise UserError(f"{self.path}: no such dataset; make it with `maicc collect`")
        with hdf5_to_read(self.path, "make it again") as file:
            header = dict(file.attrs)
            header["shapes"] = {k: getattr(v, "shape", None) for k, v in file.items()}
        if header.get("header", _header_digest(header)) != _header_digest(header):
            raise UserError(f"{self.path}: its header was changed; make it again")
        if "schema" not in header:
            raise UserError(
                f"{self.path}: no attribute 'schema', so this is not a maicc dataset; the authors' "
                "layout is read with `maicc collect --from-reference`"
            )
        if str(header["schema"]) != str(SCHEMA):
            raise UserError(
                f"{self.path}: schema {header['schema']}, this version reads schema {SCHEMA}; make "
                "the dataset again or use the version that wrote it"
            )
        return header

    @cached_property
    def spec(self) -> Spec:
        """Sizes of the family that the episodes are of, and its return bounds."""
        return self._part("spec", Spec.from_json)

    @cached_property
    def tasks(self) -> list[Task]:
        """Tasks that the episodes' `task` counts in."""
        return self._part("tasks", lambda tasks: [Task(**task) for task in tasks])

    @cached_property
    def behaviours(self) -> list[Behaviour]:
        """Behaviours that the episodes' `behaviour` counts in."""
        return self._part("behaviours", lambda listed: [Behaviour(**values) for values in listed])

    @property
    def rosters(self) -> list[list[str]]:
        """Rosters of tasks, as `TaskFamily.rosters` gives them; none if they are unknown."""
        return self._part("rosters", list) if "rosters" in self._header else []

    @property
    def plan(self) -> str:
        """Hash of all that a collection follows from; empty if the data were not collected."""
        return str(self._header.get("plan", ""))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file's content."""
        return self._part("fingerprint", str, str)

    def _part(
        self, name: str, make: Callable[[Any], Any], read: Callable[[Any], Any] = json.loads
    ) -> Any:
        """Makes something of an attribute of the file.

        Raises:
            UserError: the attribute is missing, or of another kind.
        """
        header = self._header
        try:
            return make(read(header[name]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{self.path}: attribute {name!r} is missing or can't be read "
                f"({type(error).__name__}: {error}); make the dataset again, or use the version "
                "that wrote it"
            ) from None

    def __len__(self) -> int:
        shape = self._header["shapes"].get("length")
        if not shape:
            raise UserError(f"{self.path}: field length is missing; make it again")
        return int(shape[0])

    def require(self, spec: Spec) -> Spec:
        """Checks that the dataset fits `spec`, and returns the dataset's spec.

        The bounds of the return may be missing in `spec`, and are then not compared.

        Raises:
            UserError: the dataset was made for another family or another size.
        """
        _require_spec(str(self.path), self.spec, spec)
        return self.spec

    def require_family(self, family: TaskFamily) -> None:
        """Checks that the dataset is of a family; raises as `require_fit`."""
        require_fit(str(self.path), self.spec, self.tasks, family)

    def expert_actions(self) -> np.ndarray:
        """Actions (E, T, N) that the best behaviour policy would have chosen; -1 where unknown."""
        E, spec = len(self), self.spec
        with hdf5_to_read(self.path, "make it again") as file:
            if "expert_actions" not in file:
                return np.full((E, spec.max_steps, spec.n_agents), -1)
            return file["expert_actions"][:].astype(np.int64)

    @property
    def labelled(self) -> bool:
        """Whether the actions that the best behaviour policy would have chosen are known."""
        expert = self.expert_actions()
        with hdf5_to_read(self.path, "make it again") as file:
            if "agent_mask" not in file:
                raise UserError(f"{self.path}: field agent_mask is missing; make it again")
            there = file["agent_mask"][:].astype(bool)
        return labels_known(expert.swapaxes(1, 2)[there])

    def read(self, index: slice = slice(None)) -> EpisodeBatch:
        """Reads and checks the episodes at `index`."""
        spec, n_tasks, n_behaviours = self.spec, len(self.tasks), len(self.behaviours)
        with hdf5_to_read(self.path, "make it again") as file:
            missing = [name for name in FIELDS if FIELDS[name].needed and name not in file]
            if missing:
                raise UserError(f"{self.path}: field {missing[0]} is missing; make it again")
            arrays = {}
            for name in [name for name in FIELDS if name in file]:
                if not getattr(file[name], "ndim", 0):
                    raise UserError(f"{self.path}: field {name} is no array; make it again")
                expected = shapes(spec, len(self))[name]
                if file[name].shape != expected:
                    raise UserError(
                        f"{self.path}: field {name} has shape {file[name].shape}, expected "
                        f"{expected}"
                    )
                arrays[name] = file[name][index]
        check_episodes(str(self.path), arrays, spec, n_tasks, n_behaviours, first=index.start or 0)
        return fill_missing(arrays)

    def parts(self) -> Iterator[EpisodeBatch]:
        """Reads and checks all episodes, some at a time."""
        for start in range(0, max(len(self), 1), _PART):
            yield self.read(slice(start, start + _PART))

    def mapped(self) -> EpisodeBatch:
        """Reads and checks all episodes, of which the large fields stay on disk; see `join`."""
        return join((vars(part) for part in self.parts()), len(self), self.path.parent)


def put_dataset(source: Path, target: Path) -> None:
    """Puts a dataset at `target`, as a hard link; on another disk it has to be a copy.

    Raises:
        UserError: another dataset is there.
    """
    with locked(target):
        if not target.exists():
            same_file(source, target)
        elif EpisodeFile(target).fingerprint != EpisodeFile(source).fingerprint:
            raise UserError(
                f"{target} is another dataset than {source}; choose another --out, or leave --data "
                "out"
            )


def spec_with_bounds(spec: Spec, path: str | Path) -> Spec:
    """Completes a spec without return bounds from the dataset at `path`.

    Raises:
        UserError: the spec has no bounds, and there is no dataset.
    """
    if spec.return_max is not None:
        return spec
    dataset = EpisodeFile(path)
    if not dataset.path.exists():
        raise UserError(
            f"{spec.family} gives no return_bounds; make the dataset first, which tells them: "
            f"maicc collect {spec.family} --out {path}"
        )
    stored = dataset.require(spec)
    return replace(spec, return_min=stored.return_min, return_max=stored.return_max)
