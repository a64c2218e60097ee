"""The inputs that models are timed with: one .npz file that any device reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TimedInputs = Mapping[str, NDArray[Any]]
"""name of an input -> samples in its batch dimension; dimensions that are free in the file have the sizes of these"""


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
