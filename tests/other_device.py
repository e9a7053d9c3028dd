"""A device that this machine does not have: its tensors are apart from those of the CPU.

A tensor on it says that it is on torch's device `meta`, and has its numbers in memory all the same.
What a real accelerator refuses is refused here too: an operation on tensors of both devices, and a
view of NumPy's. It takes the ways through the code that are not for a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = "meta"
_COPIES = {"aten::_to_copy", "aten::copy_"}
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


class OtherTensor(Tensor):
    """A tensor on the device; `numbers` is a tensor of the CPU."""

    numbers: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, numbers: Tensor) -> OtherTensor:
        return Tensor._make_wrapper_subclass(
            cls, numbers.size(), strides=numbers.stride(),
            storage_offset=numbers.storage_offset(), dtype=numbers.dtype, device=DEVICE,
        )  # fmt: skip

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, args, kwargs or {})


class _OtherDevice(TorchDispatchMode):
    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, args, kwargs or {})


class _MadeOnCPU(TorchFunctionMode):
    """Lets `torch.tensor` make numbers on the CPU: on `meta` it would make none."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.tensor:
            return func(*args, **kwargs)
        device = kwargs.pop("device", None)
        return func(*args, **kwargs).to(device or "cpu")


@contextmanager
def other_device() -> Iterator[str]:
    """Adds the device inside the block, and gives its name."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with _MadeOnCPU(), _OtherDevice():
            yield DEVICE
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


def _run(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Computes an operation on the CPU; its result is on the device that it would be on."""
    name, leaves = op._schema.name, tree_leaves((args, kwargs))
    are_there = [isinstance(x, OtherTensor) for x in leaves if isinstance(x, Tensor)]
    if name in _COPIES:
        there = are_there[0]
    else:
        _refuse_mixed(name, leaves)
        there = any(are_there)
    asked = kwargs.get("device")
    if asked is not None:
        there = torch.device(asked).type == DEVICE
        kwargs = {**kwargs, "device": "cpu"}
    on_cpu = tree_map_only(OtherTensor, lambda x: x.numbers, (args, kwargs))
    made = op(*on_cpu[0], **on_cpu[1])
    if not there:
        return made
    made = tree_map_only(Tensor, OtherTensor, made)
    return made if asked is not None else return_and_correct_aliasing(op, args, kwargs, made)


def _refuse_mixed(name: str, leaves: list[Any]) -> None:
    """Raises RuntimeError where an accelerator would not take tensors of two devices.

    It takes single numbers of the CPU's, and indices of a tensor of its own.
    """
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    there = [x for x in tensors if isinstance(x, OtherTensor)]
    here = [x for x in tensors if not isinstance(x, OtherTensor) and x.ndim > 0]
    if there and here and not (name in _INDEXING and tensors[0] is there[0]):
        raise RuntimeError(f"{name}: tensors on two devices")
