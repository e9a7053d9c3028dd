"""Damages of files: of their bytes, and of the values that they hold."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import h5py
import numpy as np
import torch
import yaml

# Damages of bytes. Each takes and returns the content of a file.


def flip(content: bytearray, rng: np.random.Generator) -> bytearray:
    for at in rng.integers(len(content), size=int(rng.integers(1, 20))):
        content[at] ^= 1 << int(rng.integers(8))
    return content


def cut(content: bytearray, rng: np.random.Generator) -> bytearray:
    return content[: int(rng.integers(len(content)))]


def blank(content: bytearray, rng: np.random.Generator) -> bytearray:
    start, count = int(rng.integers(len(content))), int(rng.integers(1, 4000))
    content[start : start + count] = bytes(len(content[start : start + count]))
    return content


class _Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return open, (self.marker, "w")


# Damages of named values.


def changed_array(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gives an array another kind or size, or numbers that are not finite."""
    choice = int(rng.integers(5))
    if choice == 0 and array.dtype.kind == "f" and array.size:
        array = array.copy()
        array.reshape(-1)[int(rng.integers(array.size))] = rng.choice([np.nan, np.inf, -np.inf])
        return array
    if choice == 1 and array.ndim:
        return array[: len(array) // 2]
    if choice == 2 and array.ndim:
        return array[..., :0]
    if choice == 3:
        return array.reshape(-1)
    return array.astype("S8") if array.dtype.kind != "O" else array[:0]


def changed_value(value: Any, rng: np.random.Generator) -> Any:
    """Puts something else into a plain value, somewhere, or leaves something out."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = list(value)[int(rng.integers(len(value)))]
        value = dict(value)
        if rng.random() < 0.2:
            del value[key]
        elif rng.random() < 0.1:
            value["unheard_of"] = 1
        else:
            value[key] = changed_value(value[key], rng)
        return value
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = int(rng.integers(len(value)))
        return [*value[:at], changed_value(value[at], rng), *value[at + 1 :]]
    others = [
        None, True, -1, 0, 10**30, -0.5, float("nan"), float("inf"), "", "x", "\x00", "1e-3",
        [], [1], {}, {"a": 1}, [[[]]],
    ]  # fmt: skip
    return others[int(rng.integers(len(others)))]


def damage_fields(path: Path, rng: np.random.Generator) -> None:
    """Changes or leaves out one named value of a file."""
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            names: list[str] = []
            file.visititems(lambda n, o: names.append(n) if isinstance(o, h5py.Dataset) else None)
            attributes = list(file.attrs)
            if attributes and rng.random() < 0.4:
                name = attributes[int(rng.integers(len(attributes)))]
                other = changed_value(_json_or_text(file.attrs[name]), rng)
                del file.attrs[name]
                if rng.random() < 0.8:
                    file.attrs[name] = json.dumps(other)
                return
            name = names[int(rng.integers(len(names)))]
            array = file[name][()]
            del file[name]
            if rng.random() < 0.8:
                file[name] = changed_array(np.asarray(array), rng)
        return
    if path.suffix == ".npz":
        with np.load(path) as stored:
            arrays = dict(stored)
        name = list(arrays)[int(rng.integers(len(arrays)))]
        array = arrays.pop(name)
        if rng.random() < 0.8:
            arrays[name] = changed_array(array, rng)
        with open(path, "wb") as file:
            np.savez(file, **arrays)
        return
    if path.suffix == ".ckpt":
        checkpoint = torch.load(path, weights_only=True)
        tensors = [k for k, v in checkpoint["state_dict"].items() if v.is_floating_point()]
        if rng.random() < 0.5:
            name = tensors[int(rng.integers(len(tensors)))]
            tensor = checkpoint["state_dict"].pop(name)
            if rng.random() < 0.7:
                other = changed_array(tensor.numpy(), rng)
                if other.dtype.kind in "iuf":
                    checkpoint["state_dict"][name] = torch.from_numpy(other.copy())
        else:
            checkpoint["maicc"] = changed_value(checkpoint["maicc"], rng)
        torch.save(checkpoint, path)
        return
    if path.suffix == ".maicc":
        damage_member(path, rng)
        return
    text = path.read_text()
    value = changed_value(json.loads(text) if path.suffix == ".json" else yaml.safe_load(text), rng)
    path.write_text(json.dumps(value) if path.suffix == ".json" else yaml.safe_dump(value))


def damage_member(path: Path, rng: np.random.Generator) -> None:
    """Changes, leaves out, adds, doubles or packs a file in a zip; checksums of the zip are right.

    The list of what the zip holds, which has its own checksums, stays or is what is changed.
    """
    with ZipFile(path) as archive:
        files = [(name, archive.read(name)) for name in archive.namelist()]
    at, kind = int(rng.integers(len(files))), ZIP_STORED
    name, content = files[at]
    choice = int(rng.integers(6))
    if choice == 0:
        del files[at]
    elif choice == 1:
        files.append(
            (["../outside.json", "/outside.h5", "code.py", name][int(rng.integers(4))], b"{}")
        )
    elif choice == 2:
        kind = ZIP_DEFLATED
    elif name.endswith(".json"):
        files[at] = (name, json.dumps(changed_value(json.loads(content), rng)).encode())
    else:
        change = (flip, cut, blank)[int(rng.integers(3))]
        files[at] = (name, bytes(change(bytearray(content), rng)))
    with warnings.catch_warnings(), ZipFile(path, "w", kind) as archive:
        warnings.simplefilter("ignore")  # of a name that comes twice
        for name, content in files:
            archive.writestr(name, content)


def _json_or_text(value: Any) -> Any:
    try:
        return json.loads(value)
    except (TypeError, ValueError):
        return str(value)


def damage(path: Path, rng: np.random.Generator, marker: Path) -> str:
    """Damages a file and says how."""
    how = ("flipped", "cut", "blanked", "fields", "fields", "fields", "foreign")
    choice = how[int(rng.integers(len(how)))]
    if choice == "fields":
        damage_fields(path, rng)
    elif choice == "foreign":
        content = [b"", b"\x00" * 100, pickle.dumps(_Malicious(str(marker))), b"{}", b"[]", b"\xff"]
        path.write_bytes(content[int(rng.integers(len(content)))])
    else:
        change = {"flipped": flip, "cut": cut, "blanked": blank}[choice]
        path.write_bytes(change(bytearray(path.read_bytes()), rng))
    return choice
