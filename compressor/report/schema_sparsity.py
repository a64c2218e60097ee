"""What report.json says about zeros and about numbers of eight bits."""

from __future__ import annotations

from typing import TypedDict


class KeptShares(TypedDict):
    """% of the sum of |w|: kept by masks in the order of channels at first and now, and by the best of any pattern."""

    first: float
    now: float
    bound: float


class QuantisedRecord(TypedDict):
    """model.int8.onnx. `quality`: the task's metric on the test set. `sparse`: weights that keep the N:M rule."""

    onnx_bytes: int
    quality: float
    sparse: int | None


class SparseLayer(TypedDict):
    """`reason`: why the layer stays dense; then nothing is `kept`."""

    name: str
    shape: list[int]
    reason: str | None
    kept: KeptShares | None


class SparsityRecord(TypedDict):
    """N:M masks. `eligible`: layers that have them; `onnx_initializers`: weights of model.onnx that keep the rule."""

    pattern: list[int]
    runtime: str
    eligible: int
    zeros: int
    masked_weights: int
    kept_percent: KeptShares
    onnx_initializers: int
    predicted: str
    measured: str | None
    layers: list[SparseLayer]


class MaskedLayer(TypedDict):
    """`shape`: of its weight in the slim model. `weights`: how many it had; `left`: how many may be other than zero."""

    name: str
    shape: list[int]
    weights: int
    left: int


class MasksRecord(TypedDict):
    """Single weights masked, wherever they are. `weights`: of all convolutions and linear layers of the original,
    without biases and normalisations; `sparsity_percent`: of them zero or gone; `onnx_initializers`: weights of
    model.onnx that show it."""

    weights: int
    left: int
    sparsity_percent: float
    onnx_initializers: int
    expected: str
    measured: str | None
    layers: list[MaskedLayer]
