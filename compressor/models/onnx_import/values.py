"""The two kinds of values in an imported graph: tensors, and small arrays on the host.

Sizes that a graph computes (Shape, Gather, Concat, Reshape) are NumPy arrays, never tensors. So they have values while
shapes alone are traced, they follow the widths after surgery, and no operator of the trace mentions them.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor

HostArray = NDArray[Any]
Value = Tensor | HostArray | None

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
    return torch.tensor(array.tolist(), dtype=dtype or _host_dtype(array), device=like.device)


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
