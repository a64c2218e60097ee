"""What inspect, plan and verify print with --json."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from compressor.report.schema import CostRecord, Coverage, Frozen, Gate


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


class TimeBounds(TypedDict):
    """What keeps a plan from being faster, by prediction: shares of its time in layers that stay as they are (`fixed`)
    and in operators `between` layers, and the share of the dense model's time that is left when all goes that can."""

    fixed: float
    between: float
    least: float


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
    bounds: TimeBounds | None
    risk: Risk | None
    kept: float
    worth_it: str
    sparsity: NotRequired[str | None]
    schedules: list[Rates]


class ParetoPoint(TypedDict):
    """What one target leads to: `memory` in bytes, `kept` as in Plan; or the `reason` why nothing meets it."""

    asked: str
    reason: str | None
    slim: CostRecord | None
    memory: int | None
    latency: ExpectedLatency | None
    kept: float | None
    risk: Risk | None


class Pareto(TypedDict):
    """`compress plan --pareto`: several targets for one model. `device`: where latency is that of; None for nowhere."""

    model: str
    method: str
    device: str | None
    dense: CostRecord
    points: list[ParetoPoint]


class Check(TypedDict):
    name: str
    ok: bool
    detail: str


class Verify(TypedDict):
    """`compress verify`."""

    folder: str
    checks: list[Check]  # the gates among them
    proven: bool  # all that is no gate holds
    gates: list[Gate]
    ok: bool
