"""Files of arrays (.npy, .npz, .safetensors) that hold the inputs of a model, samples along the first dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from compressor.core import ModelInput
from compressor.data.samples import to_inputs
from compressor.errors import DataError

ARRAY_FILES = (".npy", ".npz", ".safetensors")
FAILURES = (OSError, ValueError, TypeError, SafetensorError, EOFError)


def read_arrays(path: Path, inputs: Sequence[ModelInput]) -> tuple[Tensor, ...]:
    """Read one array for each input.

    Args:
        path: The file.
        inputs: The inputs of the model, whose sizes are not compared.

    Returns:
        The arrays in the order of the inputs, (N, ...).

    Raises:
        DataError: The file cannot be read, or its arrays are not those of the inputs.
    """
    try:
        tensors = to_inputs(_content(path), inputs)
    except FAILURES as error:
        raise _unreadable(path, error) from error
    return tuple(map(_wide_integers, tensors, inputs))


def array_shapes(path: Path, inputs: Sequence[ModelInput]) -> tuple[tuple[int, ...], ...]:
    """Read the shapes of the samples.

    Args:
        path: The file.
        inputs: The inputs of the model, whose sizes are not compared.

    Returns:
        The shape of one sample of each input.

    Raises:
        DataError: The file cannot be read, or its arrays are not those of the inputs.
    """
    return tuple(tuple(tensor.shape[1:]) for tensor in read_arrays(path, inputs))


def first_samples(path: Path, count: int) -> Mapping[str, Tensor]:
    """Read the first rows of every array, which show what a model takes whose inputs are not known.

    Args:
        path: The file.
        count: Number of rows.

    Returns:
        Name -> rows (count, ...), or a single number; the one array of a .npy file has an empty name.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        content = _content(path)
        arrays = content if isinstance(content, dict) else {"": content}
        return {name: tensor[:count].clone() if tensor.ndim else tensor for name, tensor in arrays.items()}
    except FAILURES as error:
        raise _unreadable(path, error) from error


def _content(path: Path) -> Any:
    match path.suffix:
        case ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False))
        case ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {name: torch.from_numpy(archive[name]) for name in archive.files}
        case _:
            return load_file(path)


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError("data/arrays", str(path), str(error), "give one array (N, ...) for each input")


def _wide_integers(tensor: Tensor, expected: ModelInput) -> Tensor:
    """Token ids as the model takes them: int32 files of int64 inputs are common."""
    return tensor.long() if expected.dtype == "int64" and tensor.dtype in (torch.int32, torch.int16) else tensor
