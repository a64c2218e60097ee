"""A table of runtimes and the N:M patterns that make them faster.

The rows state what documentation and measurements of users said at the date AS_OF. A bound of 2x is the arithmetic of
sparse tensor cores; complete networks gain less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from compressor.core import NMPattern

AS_OF = "2026-11"
SIZES = (2, 4, 8, 16)  # M of supported patterns: positions take 1, 2 or 4 bits


@dataclass(frozen=True, slots=True)
class NMSparsity:
    """An N:M pattern and the layers it applies to: those that `runtime` can use, except the globs of `dense`."""

    pattern: NMPattern
    runtime: str  # a row of RUNTIMES
    dense: tuple[str, ...] = ()
    packed: bool = False  # saved as values and positions


@dataclass(frozen=True, slots=True)
class RuntimeSupport:
    """One runtime on one generation of devices."""

    rule: NMPattern | None  # the pattern that it uses; None = zeros are computed like other weights
    outputs: int = 1  # K of a layer must be a multiple of this
    inputs: int = 1  # C of a layer must be a multiple of this
    precisions: tuple[str, ...] = ()
    notes: str = ""  # measurements and conditions

    def supports(self, pattern: NMPattern) -> bool:
        """Whether every weight with this pattern also satisfies the rule of the runtime."""
        if self.rule is None:
            return False
        n, m = pattern
        return self.rule.m % m == 0 and n * (self.rule.m // m) <= self.rule.n


def _tensorrt(notes: str) -> RuntimeSupport:
    return RuntimeSupport(NMPattern(2, 4), outputs=8, inputs=16, precisions=("fp16", "int8"), notes=notes)


RUNTIMES: dict[str, RuntimeSupport] = {
    "onnxruntime-cpu": RuntimeSupport(None, notes="zeros are multiplied like any other number"),
    "onnxruntime-cuda": RuntimeSupport(None, notes="zeros are multiplied like any other number"),
    "onnxruntime-other": RuntimeSupport(None, notes="no provider but TensorRT is known to skip zeros"),
    "tensorrt-turing": RuntimeSupport(None, notes="no sparse tensor cores before compute capability 8.0"),
    "tensorrt-ampere": _tensorrt(
        "usually below 15 % on whole networks, nothing under 256 channels; dense kernels beside Q/DQ"
    ),
    "tensorrt-ada": _tensorrt("about 0 % reported on L4; dense kernels beside Q/DQ"),
    "tensorrt-hopper": _tensorrt("no measurement of a convolutional network known"),
    "torch-cusparselt": RuntimeSupport(
        NMPattern(2, 4),
        outputs=16,
        inputs=16,
        precisions=("fp16", "bf16"),
        notes="linear layers only, CUDA 8.0 and later",
    ),
    "torch-cutlass": RuntimeSupport(
        NMPattern(2, 4),
        outputs=32,
        inputs=64,
        precisions=("fp16", "bf16"),
        notes="linear layers only, CUDA 8.0 and later",
    ),
}


def ineligible_reason(shape: Sequence[int], support: RuntimeSupport, pattern: NMPattern) -> str | None:
    """Explain why a runtime cannot use a weight with a pattern.

    Args:
        shape: (K, C, *).
        support: The runtime.
        pattern: N and M.

    Returns:
        The reason, or None if it can.
    """
    k, c, *_ = shape
    inputs = math.lcm(support.inputs, pattern.m)
    if c == 1:
        return "depthwise: a single input channel a filter"
    if c < pattern.m:
        return f"{c} input channels, fewer than a group of {pattern.m}"
    if c % inputs:
        return f"{c} input channels, not a multiple of {inputs}"
    if k % support.outputs:
        return f"{k} outputs, not a multiple of {support.outputs}"
    return None
