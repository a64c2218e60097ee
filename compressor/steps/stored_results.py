"""Results of long computations, which a resumed run reads instead of computing them again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy._core.multiarray import _reconstruct  # how NumPy builds an array that is read
from torch import nn

from compressor.tensors import hash_of
from compressor.training.saved_file import read_saved, write_saved
from compressor.training.training_checkpoint import Checkpoints

LONG = 10.0  # seconds; results of shorter computations are not worth a file
FOLDER = "results"  # inside that of the checkpoints
ARRAYS: tuple[Any, ...] = (
    np.ndarray,
    np.dtype,
    _reconstruct,
    *(type(np.dtype(kind)) for kind in (bool, np.int64, np.float64)),
)

T = TypeVar("T")


def stored_result(
    checkpoints: Checkpoints, what: str, module: nn.Module, compute: Callable[[], T], records: tuple[type, ...] = ()
) -> T:
    """Compute a result, or read the one that the interrupted run has computed from the same network.

    A computation of over LONG seconds leaves a file under a hash of what it depends on. The file is read without
    unpickling anything but the given classes.

    Args:
        checkpoints: Where files lie, and what identifies the run.
        what: What is computed, with its settings.
        module: The network that it is computed from.
        compute: Computes the result: tensors, arrays, numbers, text, containers and records of these.
        records: The classes of these records.

    Returns:
        The result.
    """
    if checkpoints.folder is None:
        return compute()
    path = checkpoints.folder / FOLDER / hash_of(f"{checkpoints.fingerprint}\n{what}\n", module.state_dict())
    stored = read_saved(path, [*records, *ARRAYS])
    if stored is not None:
        result: T = stored["result"]
        return result
    start = time.perf_counter()
    result = compute()
    if time.perf_counter() - start > LONG:
        write_saved(path, {"result": result})
    return result
