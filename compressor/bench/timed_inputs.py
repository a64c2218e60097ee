"""The inputs that models are timed with: one .npz file that any device reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compressor.bench.runner.traced_sizes import NO_BATCH
from compressor.core import LoadedModel

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class TimedInput:
    """Samples of one input as the file takes them; dimensions that are free in the file have the sizes of these."""

    samples: NDArray[Any]
    batch_dim: int | None = 0


TimedInputs = Mapping[str, TimedInput]
"""name of an input -> its samples"""


def named_samples(model: LoadedModel, samples: Sequence[Tensor]) -> TimedInputs:
    """Name a model's samples, and arrange them as its ONNX files take them.

    Args:
        model: The model.
        samples: A tensor for each of its inputs.

    Returns:
        The samples by name.
    """
    from compressor.file_module import FileModule, as_file_takes  # torch, which `compress bench` does without

    dims = model.module.batch_dims if isinstance(model.module, FileModule) else model.spec.batch_dims
    parts = zip(model.spec.inputs, as_file_takes(model.module, samples), dims, strict=True)
    return {one.name: TimedInput(tensor.numpy(), dim) for one, tensor, dim in parts}


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
    arrays = {f"input{index}": one.samples for index, one in enumerate(inputs.values())}
    dims = [NO_BATCH if one.batch_dim is None else one.batch_dim for one in inputs.values()]
    np.savez(path, allow_pickle=False, names=np.array(list(inputs)), dims=np.array(dims), **arrays)
    return path
