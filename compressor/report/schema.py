"""What the program says about a model: the shape of report.json.

Percentages are 0 to 100, times are in the unit of the name, and a number that was not measured is None.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

from compressor.report.schema_costs import DiskRecord, RemovedRecord, TrainingReport
from compressor.report.schema_latency import BenchRecord, BenchResult, LatencyRecord, LayerTimeRecord
from compressor.report.schema_sparsity import MasksRecord, QuantisedRecord, SparsityRecord


class CostRecord(TypedDict):
    params: int
    macs: int


class MetricRecord(TypedDict):
    """What the task is judged by; `accuracy`, in %, for classification."""

    name: str
    unit: str
    higher_is_better: bool


class ModelRecord(CostRecord):
    """`accuracy`: in %, None unless it is what the task is judged by; `metric`: the value, whatever it is judged by."""

    onnx_bytes: int
    onnx_sha256: str
    accuracy: float | None
    metric: float | None
    latency_ms: LatencyRecord | None


class Ratios(TypedDict):
    """dense / slim, so above 1 means smaller or faster."""

    params: float | None
    macs: float | None
    latency: float | None
    latency_ci95: list[float] | None


class CertificateRecord(TypedDict):
    kind: str
    max_abs_error: float | None
    max_rel_error: float | None
    ok: bool


class OnnxRecord(TypedDict):
    """model.onnx against the slim PyTorch module, and dense.onnx against the dense one."""

    opset: int
    max_abs_error: float | None
    dense_max_abs_error: float | None
    ok: bool
    compared: str  # answers, or what lies before them where rounding decides which answers are given


class IsometryRecord(TypedDict):
    """Mean singular value of d logits / d input over so many training images. `error`: half its 95 % interval as an
    estimate for these images, 0 where it was computed."""

    mean: float
    error: float
    images: int


class Trainability(TypedDict):
    """`accuracy` in %, over so many epochs; the definition in words."""

    accuracy: float
    epochs: int
    definition: str


class StableRateRecord(TypedDict):
    """The largest stable learning rate of gradient descent with the retraining's momentum, 2 (1 + momentum) /
    curvature, at its start on so many training images: a hint."""

    lr: float
    curvature: float
    images: int


class Frozen(TypedDict):
    name: str
    reason: str


class GroupsRecord(TypedDict):
    total: int
    pruned: int
    frozen: list[Frozen]


class LayerRecord(TypedDict):
    """Channels that one layer writes."""

    name: str
    before: int
    after: int
    frozen: bool


class FrozenMacs(TypedDict):
    """What the groups that are frozen for one reason hold."""

    reason: str
    groups: int
    channels: int
    macs_percent: float


class Coverage(TypedDict):
    """How much of the model can be pruned at all; layers are the writers of groups."""

    layers: int
    prunable_layers: int
    channels: int
    prunable_channels: int
    prunable_macs_percent: float  # that go with the channels of prunable groups
    frozen_macs: list[FrozenMacs]  # the most first: what would unlock more


class Gate(TypedDict):
    """A target or gate of the recipe; `asked` and `found` are words: 'at most 50 %', '49.8 %'."""

    name: str
    asked: str
    found: str
    ok: bool


class ModelSpecRecord(TypedDict):
    source: str
    input: list[int] | list[list[int]]  # of several, one each
    num_classes: int | None


class Report(TypedDict):
    """report.json. `version` is that of this format."""

    version: int
    model: str
    architecture: ModelSpecRecord
    method: str
    steps: list[str]
    retrained: bool
    dense: ModelRecord
    slim: ModelRecord
    ratios: Ratios
    metric: MetricRecord
    metric_steps: dict[str, float | None]
    accuracy_steps: dict[str, float | None]
    isometry: dict[str, IsometryRecord]
    trainability: Trainability | None
    stable_rate: StableRateRecord | None
    certificate: CertificateRecord
    onnx: OnnxRecord
    bench: BenchRecord
    gates: list[Gate]
    batches: NotRequired[list[BenchResult]]
    layer_times: list[LayerTimeRecord]
    left_to_win: list[str]
    files: NotRequired[dict[str, str]]
    training: NotRequired[TrainingReport | None]
    removed: NotRequired[RemovedRecord]
    disk: NotRequired[DiskRecord]
    sparsity: NotRequired[SparsityRecord | None]
    masks: NotRequired[MasksRecord | None]
    int8: NotRequired[QuantisedRecord | None]
    groups: GroupsRecord
    coverage: Coverage
    layers: list[LayerRecord]
    seconds: dict[str, float]
    environment: dict[str, str | int]
    warnings: list[str]
    notes: list[str]
