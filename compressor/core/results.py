"""What a run finds out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Certificate:
    """The proof that surgery changed nothing but the removed channels."""

    kind: str  # "masked-dense-float64"; "restricted-dense-float64" where norms work on the kept channels only
    max_abs_error: float
    max_rel_error: float
    ok: bool

    def also(self, other: Certificate | None) -> Certificate:
        """This proof after another one, if there was any; both must hold."""
        if other is None:
            return self
        again = other.kind.split("+")[-1] == self.kind
        return Certificate(
            other.kind if again else f"{other.kind}+{self.kind}",
            max(self.max_abs_error, other.max_abs_error),
            max(self.max_rel_error, other.max_rel_error),
            self.ok and other.ok,
        )


@dataclass(frozen=True, slots=True)
class JacobianIsometry:
    """Mean singular value of the Jacobian d logits / d input over `images` inputs: 1 where lengths are kept on the way.

    `error`: half the 95 % interval of the estimate for these images, 0 where all singular values were computed.
    """

    mean: float
    error: float
    images: int


@dataclass(frozen=True, slots=True)
class StableLearningRate:
    """The largest learning rate that a loss of this largest `curvature` stands, on so many images."""

    lr: float
    curvature: float
    images: int


@dataclass(frozen=True, slots=True)
class TrainingCost:
    """What one training took: its batches, without evaluation in between."""

    stage: str
    device: str  # cpu | cuda | mps
    params: int  # of what was trained
    batch_size: int
    epochs: int
    seconds: float
    batch_ms: float | None  # median time from one batch to the next, data included
    peak_bytes: int | None  # weights, gradients, the optimizer's memory, activations, batches; None = can't be told
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


ParityScope = Literal["answers", "layers before a choice by value"]
"""what of an ONNX file was compared with PyTorch"""


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """An ONNX file and how far its answers are from PyTorch's on the same inputs."""

    path: Path
    opset: int
    bytes: int
    sha256: str
    max_abs_error: float
    ok: bool
    notes: tuple[str, ...] = ()  # what the exporter refused, and what was done instead
    compared: ParityScope = "answers"


@dataclass(frozen=True, slots=True)
class QuantizedModel:
    """An int8 ONNX file, and the data's metric of it on the test set."""

    path: Path
    bytes: int
    quality: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of one run; percentiles are None where the samples are too few to state them."""

    p50: float
    p90: float | None
    p99: float | None
    n: int
    ci95: tuple[float, float]  # of p50
    cold_start_ms: float
    samples: tuple[float, ...]  # every sample, in ms, for the figure
    energy_j: float | None = None  # of one run, by the meters of the whole package or board
    peak_bytes: int | None = None  # memory of the process that ran it, above that of an empty one


@dataclass(frozen=True, slots=True)
class SustainedLoad:
    """One model run without a pause for `seconds`: median milliseconds at first and at last."""

    seconds: float
    first_ms: float
    last_ms: float
    percent_per_minute: float  # of `first_ms`


LAYOUT_COPIES = "layout copies"
"""The name that copies from one memory layout or device to another are counted under."""


@dataclass(frozen=True, slots=True)
class LayerTime:
    """Microseconds of one layer, or of all operators of a kind, in two models; None where one has none of it."""

    name: str
    op: str
    before_us: float | None
    after_us: float | None
    before_bytes: int  # read and written in a run
    after_bytes: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models measured in turn on one target. ratio = a / b, so above 1 means that b is faster."""

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
"""Tells what happens: an event name and its fields. The command line turns them into bars, lines and run.jsonl."""
