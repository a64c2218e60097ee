"""The result of `compress plan`: what a recipe would do to a model, and whether it is worth it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NotRequired, TypedDict

from rich.console import Console
from rich.text import Text

from compressor.report.blocks import Fact, Headline, Row, Table
from compressor.report.findings.blocks_dropped import DroppedRecord, describe_dropped, has_drops
from compressor.report.findings.group_errors import ErrorCurvesRecord, curves_table, describe_prediction
from compressor.report.findings.headline import NOT_FASTER
from compressor.report.findings.model_size import CostRecord, size_rows
from compressor.report.findings.prunable_groups import Coverage, FrozenGroup
from compressor.report.format import format_bytes, format_ms, format_number, format_quotient, format_ratio, printable
from compressor.report.schedule_plot import LearningRateCurve, draw_plot, falls_in_powers, turning_points
from compressor.report.tables import (
    FAINT,
    STRONG,
    name_range,
    print_blocks,
    print_facts,
    print_frozen,
    print_heading,
    print_table,
    runs_of_equal,
)


class PlanGroup(TypedDict):
    """Channels of a group before and after."""

    name: str
    before: int
    after: int


class PlanRatios(TypedDict):
    """dense / slim."""

    params: float | None
    macs: float | None


class ExpectedLatency(TypedDict):
    """Medians; intervals are of 95 % where measured, otherwise the error that the prediction may have."""

    dense_ms: float
    slim_ms: float
    slim_interval_ms: list[float]
    ratio: float
    ratio_interval: list[float]
    measured: bool


class MemoryRecord(TypedDict):
    """Bytes of weights and of the activations at their peak, for one input."""

    dense: int
    slim: int


class AccuracyPreview(TypedDict):
    """A metric before any retraining, on a few batches of the `held-out` split or of the `training` images."""

    metric: str
    split: str
    dense: float
    slim: float


class LowerBound(TypedDict):
    """The shares that are left when everything is removed that can be."""

    params: float
    macs: float


class LatencyBottlenecks(TypedDict):
    """What keeps a plan from being faster, by prediction: shares of its time in layers that can't become narrower
    (`fixed`) and in operators `between` layers, and the share of the dense model's time that is left when everything
    is removed that can be (`least`)."""

    fixed: float
    between: float
    least: float


class Plan(TypedDict):
    """`compress plan`. `target` in words; `kept`: share of a layer's L1 norm, mean over layers; `schedules`: of each
    training, in order; `sparsity`: what a runtime gains from zeros, None for a recipe that sets none."""

    model: str
    method: str
    steps: list[str]
    target: str
    round_to: int
    dense: CostRecord
    slim: CostRecord
    ratios: PlanRatios
    groups: list[PlanGroup]
    frozen: list[FrozenGroup]
    coverage: Coverage
    latency: ExpectedLatency | None
    memory: MemoryRecord
    least: LowerBound
    bounds: LatencyBottlenecks | None
    risk: AccuracyPreview | None
    kept: float
    worth_it: str
    sparsity: NotRequired[str | None]
    dropped_blocks: NotRequired[DroppedRecord | None]
    schedules: list[LearningRateCurve]
    error_curves: NotRequired[ErrorCurvesRecord | None]
    softer: NotRequired[list[SofterTarget]]
    at_risk: NotRequired[str | None]


class SofterTarget(TypedDict):
    """What another target would cost by the same curves."""

    target: str
    divergence: float
    agreement: float | None


def show_plan(plan: Plan, console: Console) -> None:
    """Print what a recipe would do.

    Args:
        plan: The result.
        console: Where to print.
    """
    print_heading(console, plan["model"], plan["steps"], method=plan["method"])
    print_blocks(console, [_headline(plan), *_rows(plan)])
    changed = (group for group in plan["groups"] if group["after"] != group["before"])
    rows = []
    for first, last, count in runs_of_equal(changed, lambda group: (group["before"], group["after"])):
        before, after = first["before"], first["after"]
        share = f"{100 * after / before:.0f} %"
        rows.append((name_range(first["name"], last["name"]), str(count), str(before), str(after), share))
    print_table(console, Table(("groups to prune", "groups", "channels", "kept", "share kept"), rows))
    shares = {share["reason"]: share["macs_percent"] for share in plan["coverage"]["frozen_macs"]}
    print_frozen(console, [{"name": group["name"], "reason": group["reason"]} for group in plan["frozen"]], shares)
    for schedule in plan["schedules"]:
        _print_schedule(console, schedule)
    if (curves := plan.get("error_curves")) is not None:
        print_table(console, curves_table(curves, ascii_only=console.options.ascii_only))
    print_facts(console, _facts(plan))


def _headline(plan: Plan) -> Headline:
    """Whether the plan is worth it, and what to do if it is not faster."""
    latency = plan["latency"]
    if latency is None:
        return Headline(plan["worth_it"])
    low, high = latency["ratio_interval"]
    faster = True if low > 1 else False if high < 1 else None
    return Headline(plan["worth_it"], faster, "" if faster or plan.get("sparsity") else NOT_FASTER)


def _rows(plan: Plan) -> Iterable[Row]:
    yield from size_rows(plan["dense"], plan["slim"])
    if (latency := plan["latency"]) is not None:
        label = f"Latency, {'measured' if latency['measured'] else 'predicted'}"
        ratio = format_ratio(latency["ratio"], latency["ratio_interval"])
        yield Row(label, format_ms(latency["dense_ms"]), format_ms(latency["slim_ms"]), ratio)
    dense, slim = plan["memory"]["dense"], plan["memory"]["slim"]
    yield Row("Memory", format_bytes(dense), format_bytes(slim), format_quotient(dense, slim))


def _facts(plan: Plan) -> Iterable[Fact]:
    yield Fact("Target", plan["target"])
    if (dropped := plan.get("dropped_blocks")) is not None:
        yield Fact("Blocks", describe_dropped(dropped))
    yield Fact("Widths", "any" if plan["round_to"] == 1 else f"multiples of {plan['round_to']}")
    for schedule in plan["schedules"]:
        yield Fact("Training", describe_schedule(schedule))
    if not plan["schedules"]:
        yield Fact("Training", "no epochs")
    yield Fact("L1 norm kept", f"{100 * plan['kept']:.1f} %, averaged over layers")
    if (preview := plan["risk"]) is not None:
        change = f"{preview['metric']} {preview['dense']:.4g} -> {preview['slim']:.4g}"
        yield Fact("Untrained", f"{change} on a few {preview['split']} images, after recalibrating BatchNorm")
    if (curves := plan.get("error_curves")) is not None:
        yield Fact("Predicted", describe_prediction(curves["divergence"], curves["agreement"], has_drops(dropped)))
        for softer in plan.get("softer", []):
            yield Fact(f"At {softer['target']}", describe_prediction(softer["divergence"], softer["agreement"]))
    if (at_risk := plan.get("at_risk")) is not None:
        yield Fact("At risk", at_risk)
    least = plan["least"]
    bound = f"{100 * least['params']:.1f} % of the parameters and {100 * least['macs']:.1f} % of the MACs"
    yield Fact("Lower bound", f"{bound} remain when everything is removed that can be")
    if (bottlenecks := plan["bounds"]) is not None:
        yield Fact("Limited by", describe_bottlenecks(bottlenecks))
    if sparsity := plan.get("sparsity"):
        yield Fact("Sparsity", sparsity)


def describe_bottlenecks(bottlenecks: LatencyBottlenecks) -> str:
    """What keeps the plan from being faster, as a sentence."""
    between, fixed, least = (100 * bottlenecks[key] for key in ("between", "fixed", "least"))
    return (
        f"{between:.0f} % of the predicted time is spent between layers and {fixed:.0f} % in layers that can't become "
        f"narrower; at least {least:.1f} % of the dense model's time remains"
    )


def _print_schedule(console: Console, schedule: LearningRateCurve) -> None:
    """The schedule as a plot; its numbers are among the facts."""
    heading = Text("learning rate by epoch", STRONG).append(f", {printable(schedule['step'])}", FAINT)
    scale = "log scale" if falls_in_powers(schedule["rates"]) else "linear scale"
    console.print(heading.append(f", {scale}", FAINT))
    for line in draw_plot(schedule, console.width, ascii_only=console.options.ascii_only):
        console.print(Text(line), no_wrap=True)
    console.print()


def describe_schedule(schedule: LearningRateCurve) -> str:
    """'30 epochs, learning rate at epoch 0: 0.01, 20: 0.001'."""
    points = ", ".join(
        f"{done:.4g}: {rate if rate > 1e-15 else 0:.3g}" for done, rate in turning_points(schedule["rates"])
    )
    return f"{format_number(schedule['epochs'], 'epoch')}, learning rate at epoch {points}"
