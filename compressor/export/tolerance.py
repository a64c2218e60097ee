"""When do two sets of answers, from the ONNX file and from PyTorch, agree?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.errors import VerificationFailed

Array = NDArray[Any]

RELATIVE = 1e-4  # of each output's largest value
CONDITION = 16.0  # times PyTorch's own float32 rounding error
SMALLEST = float(np.finfo(np.float32).tiny)  # below it, runtimes may give zero for any number
RELATIVE_AT_MOST = 1e-2  # however badly conditioned: beyond it a wrong file could hide


def within_tolerance(
    found: Sequence[Array], reference: Sequence[Array], exact: Callable[[], Sequence[Array]], names: Sequence[str]
) -> tuple[float, bool]:
    """The largest difference, and whether every array of `found` agrees with the one of the same shape in `reference`.

    It does when `max|found - reference| <= 1e-4 max|reference|`: relative to its own scale, since untrained networks
    answer with anything from 1e-12 to 1e6. Differences below the smallest normal float32 number do not count. A badly
    conditioned network may miss that and still be exported right, so then 16 times the reference's own rounding error,
    measured against itself in float64 (`exact`), is allowed, up to 1 % of max|reference|. Raises VerificationFailed for
    NaN or infinity.
    """
    differences = [max_difference(*each) for each in zip(found, reference, names, strict=True)]
    ok = True
    for place, difference in enumerate(differences):
        if difference > max(RELATIVE * (scale := max_abs(reference[place])), SMALLEST):
            truth = exact()
            own = rounding_error(reference[place], truth[place]) if len(truth) == len(reference) else 0.0
            ok = ok and difference <= min(CONDITION * own, RELATIVE_AT_MOST * scale)
    return max(differences, default=0.0), ok


def max_abs(array: Array) -> float:
    return float(np.abs(array.astype(np.float64)).max(initial=0.0))


def max_difference(found: Array, reference: Array, where: str) -> float:
    """`max|found - reference|`. Raises VerificationFailed unless all values are finite."""
    for who, array in (("PyTorch", reference), ("ONNX Runtime", found)):
        if not np.isfinite(array).all():
            bad = int(array.size - np.isfinite(array).sum())
            raise VerificationFailed(
                "outputs/non-finite",
                where,
                f"{bad} of {array.size} values from {who} are NaN or infinite",
                "check the model's weights and normalization statistics",
            )
    return max_abs(found.astype(np.float64) - reference.astype(np.float64))


def rounding_error(reference: Array, truth: Array) -> float:
    """How far float32 answers lie from those in float64; 0 where these can't be compared."""
    error = max_abs(reference - truth) if truth.shape == reference.shape else 0.0
    return error if math.isfinite(error) else 0.0
