"""Which runtime on which device gains by which zeros, as a table.

Rows state what documentation and users' measurements say, with the date they were looked up: this field loses runtimes
faster than it gains them. "At most 2x" is the arithmetic of sparse tensor cores, not what whole networks show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from compressor.core import NMPattern

AS_OF = "2026-11"
SIZES = (2, 4, 8, 16)  # of groups: their places fit 1, 2 or 4 bits


@dataclass(frozen=True, slots=True)
class NMSparsity:
    """An N:M pattern and the layers it applies to: those that `runtime` can use, except the globs of `dense`."""

    pattern: NMPattern
    runtime: str  # a row of RUNTIMES
    dense: tuple[str, ...] = ()
    packed: bool = False  # stored as values and positions


@dataclass(frozen=True, slots=True)
class RuntimeSupport:
    """One runtime on one generation of devices. `rule`: what groups it can use, None for a runtime that uses none."""

    rule: NMPattern | None
    outputs: int = 1  # the layer's K is a multiple of this,
    inputs: int = 1  # and its C of this
    precisions: tuple[str, ...] = ()
    seen: str = ""  # what users measured

    def uses(self, pattern: NMPattern) -> bool:
        """Whether every tensor of that pattern keeps this runtime's rule."""
        if self.rule is None:
            return False
        n, m = pattern
        return self.rule.m % m == 0 and n * (self.rule.m // m) <= self.rule.n


def _tensorrt(seen: str) -> RuntimeSupport:
    return RuntimeSupport(NMPattern(2, 4), outputs=8, inputs=16, precisions=("fp16", "int8"), seen=seen)


RUNTIMES: dict[str, RuntimeSupport] = {
    "onnxruntime-cpu": RuntimeSupport(None, seen="zeros are multiplied like any other number"),
    "onnxruntime-cuda": RuntimeSupport(None, seen="zeros are multiplied like any other number"),
    "onnxruntime-other": RuntimeSupport(None, seen="no provider but TensorRT is known to skip zeros"),
    "tensorrt-turing": RuntimeSupport(None, seen="no sparse tensor cores before compute capability 8.0"),
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
        seen="linear layers only, CUDA 8.0 and later",
    ),
    "torch-cutlass": RuntimeSupport(
        NMPattern(2, 4),
        outputs=32,
        inputs=64,
        precisions=("fp16", "bf16"),
        seen="linear layers only, CUDA 8.0 and later",
    ),
}


def ineligible_reason(shape: Sequence[int], support: RuntimeSupport, pattern: NMPattern) -> str | None:
    """Why a weight of this shape, (K, C, *), can't be used with these zeros; None where it can."""
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
