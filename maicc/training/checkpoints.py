"""Checkpoints of our modules: read, taken over, exported. None is ever unpickled."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar, cast
from zipfile import ZipFile

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from maicc.files import first_line
from maicc.types import Spec, UserError

Module = TypeVar("Module", bound=nn.Module)


def load_module(path: str | Path, module: type[Module], spec: Spec | None = None) -> Module:
    """Loads the module kept in a checkpoint, in evaluation mode, on the CPU.

    Args:
        path: A checkpoint, or a .safetensors file that `export_weights` made of one.
        module: Class of the module, with the `kind` and the `from_header` of a `MaiccModule`.
        spec: Sizes that are expected; any if None.

    Raises:
        UserError: the file is missing, is no checkpoint of ours, holds another model, or (given
            `spec`) is of another family or size.
    """
    path, described = Path(path), cast(Any, module)
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint; train it with `maicc fit` or `maicc run`")
    checkpoint = _read_checkpoint(path)
    header = checkpoint.get("maicc") if isinstance(checkpoint, dict) else None
    header = header if isinstance(header, dict) else {}
    if header.get("kind") != described.kind:
        raise UserError(
            f"{path}: holds {header.get('kind', 'no model of maicc')}, expected {described.kind}"
        )
    try:
        trained_for = Spec.from_json(header["spec"])
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(f"{path}: made by another version of maicc; train it again") from None
    if spec is not None and trained_for != spec:
        raise UserError(
            f"{path}: trained for another family or size: {spec.differences(trained_for)}; train "
            "one for this family"
        )
    try:
        loaded: Module = described.from_header(trained_for, header)
        loaded.load_state_dict(checkpoint["state_dict"])
    except (RuntimeError, TypeError, KeyError):
        raise UserError(f"{path}: made by another version of maicc; train it again") from None
    if not finite(loaded):
        raise UserError(
            f"{path}: has weights that are not finite, so its training has diverged; remove it and "
            "train it again with a lower learning rate"
        )
    return loaded.eval().requires_grad_(False)


def take_over(module: nn.Module, trained: nn.Module, path: Path) -> None:
    """Gives a module the weights of a trained one.

    Args:
        path: Checkpoint of the trained one, for the message.

    Raises:
        UserError: they are not of the same networks.
    """
    try:
        module.load_state_dict(trained.state_dict())
    except RuntimeError:
        raise UserError(
            f"{path}: of other options or of another version of maicc; remove it, so that it is "
            "trained again"
        ) from None


def _read_checkpoint(path: Path) -> Any:
    """Reads a checkpoint's header and weights from either kind of file.

    Raises:
        UserError: it can't be read.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                header, names = json.loads(file.metadata()["maicc"]), file.keys()
                return {"maicc": header, "state_dict": {n: file.get_tensor(n) for n in names}}
        with ZipFile(path) as archive:  # torch does not look at the checksums
            if (bad := archive.testzip()) is not None:
                raise ValueError(f"checksum of {bad}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path}: not a readable checkpoint ({first_line(error)}); train it again"
        ) from None


def export_weights(checkpoint: Path, out: Path) -> None:
    """Writes the header and the weights of a checkpoint as a .safetensors file, without the rest.

    Raises:
        UserError: the checkpoint can't be read.
    """
    content = _read_checkpoint(checkpoint)
    weights = {name: value.clone().contiguous() for name, value in content["state_dict"].items()}
    # a single entry, since the file keeps several in no fixed order
    save_file(weights, out, {"maicc": json.dumps(content["maicc"])})


def finite(module: nn.Module) -> bool:
    """Tells whether all weights are finite."""
    return all(bool(torch.isfinite(value).all()) for value in module.state_dict().values())


def weights_hash(module: torch.nn.Module) -> str:
    """SHA-256 of names and values of the parameters."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
