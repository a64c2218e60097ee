"""Results of a run: proofs, trainings, files and measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Certificate:
    """The proof that a step changed nothing but what it reports, such as the removed channels."""

    proofs: tuple[str, ...]  # in order, each with its arithmetic: see surgery/certificate.py
    max_abs_error: float
    max_rel_error: float
    ok: bool
    tolerance: float = 0.0  # what max_rel_error may be at most

    @property
    def kind(self) -> str:
        """All proofs as the report names them."""
        return "+".join(self.proofs)

    def combine(self, other: Certificate | None) -> Certificate:
        """Combine this certificate with that of an earlier step; both must hold."""
        if other is None:
            return self
        repeated = other.proofs[-1:] == self.proofs
        return Certificate(
            other.proofs if repeated else other.proofs + self.proofs,
            max(self.max_abs_error, other.max_abs_error),
            max(self.max_rel_error, other.max_rel_error),
            self.ok and other.ok,
            max(self.tolerance, other.tolerance),
        )


@dataclass(frozen=True, slots=True)
class JacobianIsometry:
    """Mean singular value of the Jacobian d logits / d input; 1 = the network is an isometry."""

    mean: float
    error: float  # half of the 95 % interval of the estimate; 0 = all singular values were computed
    images: int  # inputs at which it was computed


@dataclass(frozen=True, slots=True)
class StableLearningRate:
    """The largest learning rate that is stable at the largest curvature of the loss."""

    lr: float
    curvature: float  # largest eigenvalue of the Hessian
    images: int  # images it was estimated on


@dataclass(frozen=True, slots=True)
class TrainingCost:
    """The cost of the batches of one training, without its evaluations."""

    stage: str
    device: str  # cpu | cuda | mps
    params: int  # of the trained network
    batch_size: int
    epochs: int
    seconds: float
    batch_ms: float | None  # median time from one batch to the next, data included
    peak_bytes: int | None  # weights, gradients, optimizer, activations and batches; None = unknown
    energy_j: float | None  # by the meters of the whole package or board


@dataclass(frozen=True, slots=True)
class TrainingHistory:
    """One training of a run, epoch by epoch. A resumed training includes the epochs before the interruption.

    `records`: one mapping per epoch with `epoch` (from 1), `loss`, `lr`, `seconds`, the validation metric
    (`held_out` or `train_sample`) and other measurements.
    """

    stage: str
    records: tuple[Mapping[str, float], ...]
    cost: TrainingCost
    stable_lr: StableLearningRate | None = None  # None = not estimated


ParityScope = Literal["answers", "layers before a choice by value", "answers with random numbers at their centres"]
"""which outputs of an ONNX file were compared with PyTorch"""


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """An ONNX file, and the largest difference between its outputs and PyTorch's on the same inputs."""

    path: Path
    opset: int
    bytes: int
    sha256: str
    max_abs_error: float
    ok: bool
    notes: tuple[str, ...] = ()  # limits of the exporter, and what was done instead
    compared: ParityScope = "answers"


@dataclass(frozen=True, slots=True)
class QuantizedModel:
    """An int8 ONNX file, and its metric on the test set."""

    path: Path
    bytes: int
    quality: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of one inference. A percentile is None if there are too few samples for it."""

    p50: float
    p90: float | None
    p99: float | None
    n: int
    ci95: tuple[float, float]  # of p50
    cold_start_ms: float
    samples: tuple[float, ...]  # all samples in ms, for the figure
    energy_j: float | None = None  # of one inference, by the meters of the whole package or board
    peak_bytes: int | None = None  # memory of its process minus that of an empty process


@dataclass(frozen=True, slots=True)
class SustainedLoad:
    """One model that runs without a pause: its median milliseconds at the beginning and at the end."""

    seconds: float
    first_ms: float
    last_ms: float
    percent_per_minute: float  # of `first_ms`


LAYOUT_COPIES = "layout copies"
"""The layer name under which copies between memory layouts or devices are counted."""


@dataclass(frozen=True, slots=True)
class LayerTime:
    """Microseconds of one layer, or of all operators of one kind, in two models; None = the model has none."""

    name: str
    op: str
    before_us: float | None
    after_us: float | None
    before_bytes: int  # read and written in one inference
    after_bytes: int


RETRAINING = "retraining"
"""The stage of the recipe's own training, which follows the method's steps."""

VerdictKind = Literal["faster", "slower", "unchanged", "unstable", "stable"]
"""What a measurement says of two models, or of one: "stable" or "unstable"."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a measurement: its kind, and the sentence that reports print."""

    kind: VerdictKind
    words: str  # "faster 1.42x [1.38, 1.46]" | "no measurable change" | "slower ..." | "unstable: ..." | "stable"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models measured alternately on one device."""

    a: Latency
    b: Latency | None
    ratio: float | None  # a / b; above 1, b is faster
    ratio_ci95: tuple[float, float] | None
    control: float | None  # a / byte copy of a, measured in the same schedule
    control_ci95: tuple[float, float] | None
    verdict: Verdict
    target: str
    runtime: str
    provider: str
    threads: int
    batch: int
    environment: Mapping[str, str]
    layers: tuple[LayerTime, ...] = ()  # of a and b, from separate profiled runs; empty = not profiled
    sustained: SustainedLoad | None = None  # of b, or of a if there is no b

    @property
    def stable(self) -> bool:
        """Whether a ratio may be stated."""
        return self.verdict.kind != "unstable"


EventSink = Callable[[str, Mapping[str, object]], None]
"""Receives events: a name and its fields. The command line displays them, and run.jsonl stores them."""


def ignore_event(event: str, fields: Mapping[str, object]) -> None:
    """Receive an event and do nothing.

    Args:
        event: Not used.
        fields: Not used.
    """
