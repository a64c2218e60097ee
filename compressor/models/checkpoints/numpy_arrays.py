"""Reads NumPy arrays and scalars in a pickle as tensors and numbers, without NumPy's own unpickling."""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor

from compressor.models.checkpoints.pickle_reader import Builders, UnreadObject

_NUMPY_TYPE = re.compile(r"[fiub][1248]")


def _numpy_dtype(dtype: object) -> np.dtype[np.generic] | None:
    """Return the data type if it is one of numbers; arrays of objects may hold anything."""
    match dtype:
        case UnreadObject(name="numpy.dtype", args=(str(kind), *_), state=(_, str(order), *_)):
            return np.dtype(order.replace("|", "=") + kind) if _NUMPY_TYPE.fullmatch(kind) else None
    return None


def _array(array: UnreadObject) -> object:
    match array.state:
        case (_, tuple(shape), dtype, bool(fortran), bytes(data)) if (kind := _numpy_dtype(dtype)) is not None:
            return _from_numpy(data, kind, shape, fortran)
    return array


def _array_from_buffer(data: object, dtype: object, shape: tuple[int, ...], order: str) -> object:
    kind = _numpy_dtype(dtype)
    if kind is None or not isinstance(data, bytes | bytearray):
        return UnreadObject("numpy.ndarray")
    return _from_numpy(bytes(data), kind, shape, order == "F")


def _from_numpy(data: bytes, dtype: np.dtype[np.generic], shape: tuple[int, ...], fortran: bool) -> Tensor:
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(array.astype(dtype.newbyteorder("="), order="C"))


def _scalar(dtype: object, data: object = None) -> object:
    kind = _numpy_dtype(dtype)
    if kind is None or not isinstance(data, bytes | str):
        return UnreadObject("numpy.generic")
    return np.frombuffer(data if isinstance(data, bytes) else data.encode("latin1"), kind)[0].item()


NUMPY_BUILDERS: Builders = {
    f"numpy.{core}.{name}": build
    for core in ("core", "_core")
    for name, build in (
        ("multiarray._reconstruct.__setstate__", _array),
        ("multiarray.scalar", _scalar),
        ("numeric._frombuffer", _array_from_buffer),
    )
}
