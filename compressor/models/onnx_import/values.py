"""The two kinds of values in an imported graph: tensors, and small arrays on the host.

Sizes that a graph computes (Shape, Gather, Concat, Reshape) are NumPy arrays, never tensors. So they have values while
shapes alone are traced, they follow the widths after surgery, and no operator of the trace mentions them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor

HostArray = NDArray[Any]
Value = Tensor | HostArray | None

SMALL = 64  # entries of a constant that stays on the host
HOST_INPUTS = {
    **dict.fromkeys(("Reshape", "Expand", "Tile", "Unsqueeze", "Squeeze", "Split", "TopK", "CumSum"), (1,)),
    **dict.fromkeys(("Slice",), (1, 2, 3, 4)),
    **dict.fromkeys(("Pad", "Resize", "Clip", "OneHot", "Col2Im"), (1, 2, 3)),
    **dict.fromkeys(("Upsample", "Trilu"), (1,)),
    "NonMaxSuppression": (2, 3, 4),
    "ConstantOfShape": (0,),
    "Range": (0, 1, 2),
}
"""Inputs that are sizes, axes or settings, and are read as numbers."""

DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT64: torch.int64,
    TensorProto.INT32: torch.int32,
    TensorProto.INT16: torch.int16,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}
"""ONNX element type -> type of the tensors in the module. Reduced precision is computed in float32."""

REDUCED = (torch.float16, torch.bfloat16)


def module_dtype(element_type: int) -> torch.dtype | None:
    """The type in which a module holds tensors of an ONNX element type; None where PyTorch has none."""
    dtype = DTYPES.get(element_type)
    return torch.float32 if dtype in (*REDUCED, torch.float64) else dtype


def in_float32(array: HostArray) -> HostArray:
    """Return floating-point numbers in the type in which the module computes; other arrays as they are."""
    return array.astype(np.float32) if array.dtype.name in ("float16", "bfloat16", "float64") else array


def is_host(value: Value) -> TypeGuard[HostArray]:
    """Return whether a value is an array on the host."""
    return isinstance(value, np.ndarray | np.generic)


def as_tensor(value: Value, like: Tensor) -> Tensor:
    """Turn a host array into a tensor on the device of another one.

    Args:
        value: An array or a tensor.
        like: A tensor on the device; floating-point arrays get its type.

    Returns:
        The tensor.
    """
    if isinstance(value, Tensor):
        return value
    assert value is not None, "an absent input has no tensor"
    array = np.asarray(value)
    dtype = None
    if array.dtype.kind == "f":
        dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
    return torch.tensor(array, dtype=dtype or _host_dtype(array), device=like.device)


def as_tensors(*values: Value) -> list[Tensor]:
    """Turn host arrays into tensors like the first tensor among the values."""
    like = next(value for value in values if isinstance(value, Tensor))
    return [as_tensor(value, like) for value in values]


def _host_dtype(array: HostArray) -> torch.dtype:
    return torch.from_numpy(np.zeros(1, array.dtype)).dtype


def ints(value: Value) -> list[int]:
    """The entries of an array of integers, flattened; a tensor's values are read."""
    assert value is not None, "an absent input has no values"
    return [int(entry) for entry in (value.reshape(-1).tolist())]


def scalar(value: Value) -> Any:
    """The number in a value of one entry."""
    assert value is not None, "an absent input has no value"
    return value.reshape(-1)[0].item()


def stays_on_host(op: str, position: int, array: HostArray) -> bool:
    """Tell whether a constant is read as numbers: sizes, axes and settings, and other small ones.

    Args:
        op: The operator that reads it.
        position: The input that it is.
        array: The constant.

    Returns:
        False where it becomes a tensor of the module.
    """
    return position in HOST_INPUTS.get(op, ()) or array.size <= (1 if array.dtype.kind == "f" else SMALL)


def host(values: Sequence[int] | int) -> HostArray:
    """Make an array of 64-bit integers, as sizes are."""
    return np.asarray(values, dtype=np.int64)
