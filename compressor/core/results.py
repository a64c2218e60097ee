"""Results of a run: proofs, trainings, files and measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Certificate:
    """The proof that a step changed only what it says: for surgery, nothing but the removed channels."""

    kind: str  # what was compared, and the arithmetic: see surgery/certificate.py
    max_abs_error: float
    max_rel_error: float
    ok: bool
    tolerance: float = 0.0  # what max_rel_error may be at most

    def also(self, other: Certificate | None) -> Certificate:
        """Combine this proof with the one of an earlier step; both must hold."""
        if other is None:
            return self
        same_kind = other.kind.split("+")[-1] == self.kind
        return Certificate(
            other.kind if same_kind else f"{other.kind}+{self.kind}",
            max(self.max_abs_error, other.max_abs_error),
            max(self.max_rel_error, other.max_rel_error),
            self.ok and other.ok,
            max(self.tolerance, other.tolerance),
        )


@dataclass(frozen=True, slots=True)
class JacobianIsometry:
    """Mean singular value of the Jacobian d logits / d input over `images` inputs; 1 = the network is an isometry.

    `error`: half of the 95 % interval of the estimate for these images; 0 where all singular values were computed.
    """

    mean: float
    error: float
    images: int


@dataclass(frozen=True, slots=True)
class StableLearningRate:
    """The largest stable learning rate for a loss of this largest `curvature`, estimated on `images` images."""

    lr: float
    curvature: float
    images: int


@dataclass(frozen=True, slots=True)
class TrainingCost:
    """The cost of one training: of its batches, without the evaluations."""

    stage: str
    device: str  # cpu | cuda | mps
    params: int  # of the trained network
    batch_size: int
    epochs: int
    seconds: float
    batch_ms: float | None  # median time from one batch to the next, data included
    peak_bytes: int | None  # weights, gradients, optimizer, activations and batches; None = not known
    energy_j: float | None  # by the meters of the whole package or board


@dataclass(frozen=True, slots=True)
class TrainingHistory:
    """One training of a run, epoch by epoch; a resumed training has the epochs of before the interruption as well.

    `records`: one mapping per epoch with `epoch` (from 1), `loss`, `lr`, `seconds`, the validation metric
    (`held_out` or `train_sample`) and what else was measured.
    """

    stage: str
    records: tuple[Mapping[str, float], ...]
    cost: TrainingCost
    stable_lr: StableLearningRate | None = None  # None where it was not estimated


ParityScope = Literal["answers", "layers before a choice by value", "answers with random numbers at their centres"]
"""what of an ONNX file was compared with PyTorch"""


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """An ONNX file, and how much its outputs differ from PyTorch's on the same inputs."""

    path: Path
    opset: int
    bytes: int
    sha256: str
    max_abs_error: float
    ok: bool
    notes: tuple[str, ...] = ()  # what the exporter cannot do, and what was done instead
    compared: ParityScope = "answers"


@dataclass(frozen=True, slots=True)
class QuantizedModel:
    """An int8 ONNX file, and its metric on the test set."""

    path: Path
    bytes: int
    quality: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of one inference. Percentiles are None where there are too few samples to state them."""

    p50: float
    p90: float | None
    p99: float | None
    n: int
    ci95: tuple[float, float]  # of p50
    cold_start_ms: float
    samples: tuple[float, ...]  # every sample, in ms, for the figure
    energy_j: float | None = None  # of one inference, by the meters of the whole package or board
    peak_bytes: int | None = None  # memory of its process, above that of an empty process


@dataclass(frozen=True, slots=True)
class SustainedLoad:
    """One model running without a pause for `seconds`: median milliseconds at the beginning and at the end."""

    seconds: float
    first_ms: float
    last_ms: float
    percent_per_minute: float  # of `first_ms`


LAYOUT_COPIES = "layout copies"
"""The name under which copies between memory layouts or devices are counted."""


@dataclass(frozen=True, slots=True)
class LayerTime:
    """Microseconds of one layer, or of all operators of one kind, in two models; None where a model has none."""

    name: str
    op: str
    before_us: float | None
    after_us: float | None
    before_bytes: int  # read and written in one inference
    after_bytes: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models measured in turn on one device. ratio = a / b; above 1 means that b is faster."""

    a: Latency
    b: Latency | None
    ratio: float | None
    ratio_ci95: tuple[float, float] | None
    control: float | None  # a / byte copy of a, measured in the same schedule
    control_ci95: tuple[float, float] | None
    verdict: str  # "faster 1.42x [1.38, 1.46]" | "no measurable change" | "slower ..." | "unstable: ..."
    stable: bool
    target: str
    runtime: str
    provider: str
    threads: int
    batch: int
    environment: Mapping[str, str]
    layers: tuple[LayerTime, ...] = ()  # of a and b, profiled apart; empty = not asked for
    sustained: SustainedLoad | None = None  # of b, or of a where there is no b


EventSink = Callable[[str, Mapping[str, object]], None]
"""Receives what happens: an event name and its fields. The command line shows them, and run.jsonl stores them."""
