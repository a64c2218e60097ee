"""When the outputs of an ONNX file count as equal to those of PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from compressor.errors import VerificationFailed

Array = NDArray[Any]

CONDITION = 16.0  # times the rounding error of PyTorch in float32
SMALLEST = float(np.finfo(np.float32).tiny)  # runtimes may flush smaller numbers to zero


@dataclass(frozen=True, slots=True)
class FileRounding:
    """What the type that a file computes in changes, relative to the largest value of a layer or of an output."""

    noise: float  # of a layer, like rounding
    relative: float  # difference of an output that is always allowed
    at_most: float  # allowed whatever the rounding error: a wrong file could pass with more


FLOAT32_FILE = FileRounding(noise=1e-6, relative=1e-4, at_most=1e-2)
FLOAT16_FILE = FileRounding(noise=1e-3, relative=1e-2, at_most=5e-2)


class RoundedOutputs(Protocol):
    """PyTorch's outputs in float32, and what rounding makes of them; read only where they are needed."""

    @property
    def rounding(self) -> FileRounding:
        """The shares for the type that the file computes in."""

    @property
    def outputs(self) -> Sequence[Array]:
        """The outputs in float32."""

    @property
    def in_float64(self) -> Sequence[Array]:
        """The outputs in float64; empty = not possible."""

    @property
    def in_noise(self) -> Sequence[Sequence[Array]]:
        """The outputs of several passes with noise like rounding after every layer."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest absolute difference of any output, and whether all are within the tolerance."""

    largest: float
    ok: bool


def compare_outputs(actual: Sequence[Array], reference: RoundedOutputs, names: Sequence[str]) -> Difference:
    """Compare the outputs of an ONNX file with those of PyTorch.

    An output is equal if `max|actual - reference| <= 1e-4 max|reference|`. The tolerance is relative, because outputs
    of untrained networks range from 1e-12 to 1e6. Differences below the smallest normal float32 number are ignored. A
    badly conditioned network may exceed the tolerance although its file is right: a variance as E[x^2] - E[x]^2 loses
    most digits, and how many depends on the order of a sum. Then 16 times the rounding error of the reference against
    float64 is allowed, or as much as noise like rounding changes it, up to 1 % of max|reference|. These are the shares
    for float32; a file that computes in float16 has larger ones.

    Args:
        actual: The file's outputs.
        reference: PyTorch's, of the same shapes. Those in float64 are read only if an output exceeds the first
            tolerance, those with noise last.
        names: A name for each output, for the error.

    Returns:
        The difference.

    Raises:
        VerificationFailed: An output is not finite.
    """
    outputs, rounding = reference.outputs, reference.rounding
    differences = [max_difference(*arrays) for arrays in zip(actual, outputs, names, strict=True)]
    ok = True
    for index, difference in enumerate(differences):
        if difference > max(rounding.relative * (scale := max_abs(outputs[index])), SMALLEST):
            exact = reference.in_float64
            error = rounding_error(outputs[index], exact[index]) if len(exact) == len(outputs) else 0.0
            allowed = CONDITION * error
            if difference > allowed:
                noisy = reference.in_noise
                allowed = max((rounding_error(outputs[index], trial[index]) for trial in noisy), default=0.0)
            ok = ok and difference <= min(allowed, rounding.at_most * scale)
    return Difference(max(differences, default=0.0), ok)


def max_abs(array: Array) -> float:
    """max|array|; 0 for an empty array."""
    return float(np.abs(array.astype(np.float64)).max(initial=0.0))


def max_difference(actual: Array, reference: Array, name: str) -> float:
    """Compute `max|actual - reference|`.

    Args:
        actual: An output of ONNX Runtime.
        reference: The output of PyTorch, of the same shape.
        name: Name of the output, for the error.

    Returns:
        The largest absolute difference.

    Raises:
        VerificationFailed: A value is not finite.
    """
    for source, array in (("PyTorch", reference), ("ONNX Runtime", actual)):
        if not np.isfinite(array).all():
            bad = int(array.size - np.isfinite(array).sum())
            problem = f"{bad} of {array.size} values from {source} are NaN or infinite"
            hint = "check the model's weights and normalization statistics"
            raise VerificationFailed("outputs/non-finite", name, problem, hint)
    return max_abs(actual.astype(np.float64) - reference.astype(np.float64))


def rounding_error(reference: Array, truth: Array) -> float:
    """Compute the rounding error of an output.

    Args:
        reference: The output in float32.
        truth: The output in float64, or with noise like rounding.

    Returns:
        The largest absolute difference; 0 if the shapes differ or it is not finite.
    """
    error = max_abs(reference - truth) if truth.shape == reference.shape else 0.0
    return error if math.isfinite(error) else 0.0
