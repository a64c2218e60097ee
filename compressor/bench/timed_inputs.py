"""The inputs that models are timed with: one .npz file that any device reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compressor.core import ModelInput

if TYPE_CHECKING:
    from torch import Tensor

TimedInputs = Mapping[str, NDArray[Any]]
"""name of an input -> samples in its batch dimension; dimensions that are free in the file have the sizes of these"""


def named_samples(inputs: Sequence[ModelInput], samples: Sequence[Tensor]) -> TimedInputs:
    """Name a model's samples.

    Args:
        inputs: The model's inputs.
        samples: A tensor for each of them.

    Returns:
        The samples by name.
    """
    return {one.name: tensor.numpy() for one, tensor in zip(inputs, samples, strict=True)}


def write_timed_inputs(inputs: TimedInputs | None, folder: Path) -> Path | None:
    """Write inputs to a file that the runner reads.

    Args:
        inputs: The inputs; None = the runner makes seeded values.
        folder: Where the file is written.

    Returns:
        The file; None without inputs.
    """
    if not inputs:
        return None
    path = folder / "inputs.npz"
    arrays = {f"input{index}": array for index, array in enumerate(inputs.values())}
    np.savez(path, allow_pickle=False, names=np.array(list(inputs)), **arrays)
    return path
