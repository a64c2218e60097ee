"""What the program says about a model: the shapes of report.json and of what each verb prints with --json.

Percentages are 0 to 100, times are in the unit of the name, and a number that was not measured is None.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict


class LatencyRecord(TypedDict):
    """Milliseconds of one run; `ci95` is the interval of `p50`."""

    p50: float
    p90: float | None
    p99: float | None
    n: int
    ci95: list[float] | None
    cold_start_ms: float | None
    energy_j: NotRequired[float | None]
    peak_bytes: NotRequired[int | None]


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


class Frozen(TypedDict):
    name: str
    reason: str


class GroupsRecord(TypedDict):
    total: int
    pruned: int
    frozen: list[Frozen]


class Layer(TypedDict):
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


class LayerTimeRecord(TypedDict):
    """Microseconds and bytes moved in one run, dense and slim; layers without weights are summed by operator."""

    name: str
    op: str
    before_us: float | None
    after_us: float | None
    before_bytes: int
    after_bytes: int


class SustainedRecord(TypedDict):
    """Median milliseconds at first and at last of a run of `seconds` without a pause."""

    seconds: float
    first_ms: float
    last_ms: float
    percent_per_minute: float


class Coverage(TypedDict):
    """How much of the model can be pruned at all; layers are the writers of groups."""

    layers: int
    prunable_layers: int
    channels: int
    prunable_channels: int
    prunable_macs_percent: float  # that go with the channels of prunable groups
    frozen_macs: list[FrozenMacs]  # the most first: what would unlock more


class BenchRecord(TypedDict):
    target: str
    runtime: str | None
    provider: str | None
    threads: int | None
    batch: int | None
    verdict: str
    control: float | None
    control_ci95: list[float] | None
    environment: dict[str, str]


class Gate(TypedDict):
    """A target or gate of the recipe; `asked` and `found` are words: 'at most 50 %', '49.8 %'."""

    name: str
    asked: str
    found: str
    ok: bool


class Spec(TypedDict):
    source: str
    input: list[int] | list[list[int]]  # of several, one each
    num_classes: int | None


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


class Report(TypedDict):
    """report.json. `version` is that of this format."""

    version: int
    model: str
    architecture: Spec
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
    certificate: CertificateRecord
    onnx: OnnxRecord
    bench: BenchRecord
    gates: list[Gate]
    batches: NotRequired[list[Bench]]
    layer_times: list[LayerTimeRecord]
    left_to_win: list[str]
    files: NotRequired[dict[str, str]]
    sparsity: NotRequired[SparsityRecord | None]
    int8: NotRequired[QuantisedRecord | None]
    groups: GroupsRecord
    coverage: Coverage
    layers: list[Layer]
    seconds: dict[str, float]
    environment: dict[str, str | int]
    warnings: list[str]
    notes: list[str]


# ---------------------------------------------------------------- what the other verbs print


class InspectGroup(TypedDict):
    """`layers`: how many layers write the group's channels. `frozen`: why it can't be cut."""

    name: str
    channels: int
    layers: int
    frozen: str | None


class Inspect(TypedDict):
    """`compress inspect`. `input`: channels, height, width."""

    model: str
    source: str
    architecture: str
    notes: list[str]
    params: int
    macs: int
    input: list[int] | list[list[int]]  # of several, one each
    num_classes: int | None
    groups: list[InspectGroup]
    coverage: Coverage


class OnnxWeight(TypedDict):
    """A constant weight as its operator reads it, (K, C, ...). `reason`: why a runtime can't use zeros in it."""

    name: str
    operator: str
    shape: list[int]
    zeros_percent: float
    holds: bool
    reason: str | None


class OnnxWeights(TypedDict):
    """`compress inspect model.onnx`. `hold`: how many of the eligible weights keep the rule."""

    file: str
    pattern: list[int]
    runtime: str
    eligible: int
    hold: int
    weights: list[OnnxWeight]


class PlanGroup(TypedDict):
    name: str
    before: int
    after: int


class PlanRatios(TypedDict):
    params: float | None
    macs: float | None


class ExpectedLatency(TypedDict):
    """Medians; intervals are of 95 % where measured, else what the prediction may miss by."""

    dense_ms: float
    slim_ms: float
    slim_interval_ms: list[float]
    ratio: float
    ratio_interval: list[float]
    measured: bool


class Memory(TypedDict):
    """Bytes of weights, and of activations at their peak for one input."""

    dense: int
    slim: int


class Risk(TypedDict):
    """A metric before any retraining, on a few batches of the `held-out` split or of the `training` images."""

    metric: str
    split: str
    dense: float
    slim: float


class Least(TypedDict):
    """Shares that stay when everything goes that can."""

    params: float
    macs: float


class Rates(TypedDict):
    """Learning rates of one training. `rates`: (epochs done, learning rate), evenly from the start to the end."""

    step: str
    epochs: int
    rates: list[tuple[float, float]]


class Plan(TypedDict):
    """`compress plan`. `target` in words; `kept`: share of a layer's L1 norm, mean over layers;
    `schedules`: of each training, in order.

    `sparsity`: what zeros will bring, in words; None for a recipe that sets none.
    """

    model: str
    method: str
    steps: list[str]
    target: str
    round_to: int
    dense: CostRecord
    slim: CostRecord
    ratios: PlanRatios
    groups: list[PlanGroup]
    frozen: list[Frozen]
    coverage: Coverage
    latency: ExpectedLatency | None
    memory: Memory
    least: Least
    risk: Risk | None
    kept: float
    worth_it: str
    sparsity: NotRequired[str | None]
    schedules: list[Rates]


class Bench(TypedDict):
    """`compress bench`. `b` and all ratios are None for a single file; ratio = a / b."""

    files: list[str]
    a: LatencyRecord
    b: LatencyRecord | None
    ratio: float | None
    ratio_ci95: list[float] | None
    control: float | None
    control_ci95: list[float] | None
    verdict: str
    stable: bool
    target: str
    runtime: str
    provider: str
    threads: int
    batch: int
    environment: dict[str, str]
    layer_times: list[LayerTimeRecord]
    left_to_win: list[str]
    sustained: SustainedRecord | None


class Check(TypedDict):
    name: str
    ok: bool
    detail: str


class Verify(TypedDict):
    """`compress verify`."""

    folder: str
    checks: list[Check]
    ok: bool


# ---------------------------------------------------------------- what the page draws beside the report


class Samples(TypedDict):
    """Every latency sample in milliseconds."""

    dense: list[float]
    slim: list[float]
