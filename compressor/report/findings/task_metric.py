"""The task's metric, such as accuracy, of both models and after each stage of the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypedDict

from compressor.core import RETRAINING, Metric
from compressor.report.blocks import Block, Card, Fact, Row
from compressor.report.findings.base import Finding, Report, finite
from compressor.report.format import NOTHING, format_percent, format_significant
from compressor.report.run_result import RunResult
from compressor.report.svg import Figure, Frame, figure, linear_scale, tag

STAGES = ("dense", "after surgery", "after recalibration", f"after {RETRAINING}")
"""The stages that every report lists; others that a run measured are listed between them."""


class MetricRecord(TypedDict):
    """What the task is judged by; `accuracy`, in %, for classification."""

    name: str
    unit: str
    higher_is_better: bool


class TaskMetric(Finding):
    """The metric on the test set; accuracies are None unless the task is judged by accuracy in %."""

    order = 80

    def record(self, run: RunResult) -> Mapping[str, object]:
        return metric_record(run.state.metric, run.state.quality)

    def terminal(self, report: Report) -> Iterable[Block]:
        metric, dense, slim = _values(report)
        change = format_change(dense, slim, metric)
        yield Row(metric_name(metric), format_metric(dense, metric), format_metric(slim, metric), change)
        stages = [
            f"{stage.removeprefix('after ')} {format_metric(value, metric).removesuffix(' ' + metric['unit'])}"
            for stage, value in report["metric_steps"].items()
            if value is not None
        ]
        if stages:
            yield Fact(f"{metric_name(metric)} {metric['unit']}".strip(), " -> ".join(stages))

    def page(self, report: Report) -> Iterable[Block]:
        metric, dense, slim = _values(report)
        if dense is None or slim is None:
            yield Card("What did I lose?", NOTHING, metric_name(metric), "not measured")
        else:
            note = f"{format_metric(dense, metric)} -> {format_metric(slim, metric)}"
            label = f"{metric['name']}, points" if metric["unit"] == "%" else metric_name(metric)
            yield Card("What did I lose?", format_change(dense, slim, metric).removesuffix(" points"), label, note)
        yield from (block for block in self.terminal(report) if isinstance(block, Row))
        if stages := stages_figure(report["metric_steps"], metric):
            yield stages._replace(first=True)


def metric_record(metric: Metric | None, quality: Mapping[str, float]) -> Mapping[str, object]:
    """Return the keys of report.json about the metric.

    Args:
        metric: The data's; None where there was no data to measure it on, which is reported as accuracy.
        quality: Stage -> metric on the test set, in the order of the run.

    Returns:
        `metric`, `metric_steps`, `accuracy_steps`, and `metric` and `accuracy` under `dense` and `slim`; the slim
        model's value is that of the last stage.
    """
    description = judged_by(metric)
    is_accuracy = (description["name"], description["unit"]) == ("accuracy", "%")
    stages = {stage: finite(quality.get(stage)) for stage in _in_order(quality)}
    later = [value for stage, value in stages.items() if stage != "dense" and value is not None]
    dense, slim = stages["dense"], later[-1] if later else None
    return {
        "metric": description,
        "metric_steps": stages,
        "accuracy_steps": {stage: value if is_accuracy else None for stage, value in stages.items()},
        "dense": {"accuracy": dense if is_accuracy else None, "metric": dense},
        "slim": {"accuracy": slim if is_accuracy else None, "metric": slim},
    }


def judged_by(metric: Metric | None) -> MetricRecord:
    """The JSON of a metric; accuracy where there is none."""
    if metric is None:
        return {"name": "accuracy", "unit": "%", "higher_is_better": True}
    return {"name": metric.name, "unit": metric.unit, "higher_is_better": metric.higher_is_better}


def _in_order(measured: Iterable[str]) -> list[str]:
    """`STAGES` and the other stages that were measured, in the order of the run."""
    order, index = list(STAGES), 0
    for stage in measured:
        if stage not in order:
            order.insert(index, stage)
        index = order.index(stage) + 1
    return order


def _values(report: Report) -> tuple[MetricRecord, float | None, float | None]:
    return report["metric"], report["dense"]["metric"], report["slim"]["metric"]


def metric_name(metric: MetricRecord) -> str:
    """'Accuracy', 'Mean IoU', 'RMSE'."""
    name = metric["name"]
    return name.upper() if name in ("rmse", "mae") else name[:1].upper() + name[1:]


def format_metric(value: float | None, metric: MetricRecord) -> str:
    """Return a metric's value with its unit.

    Args:
        value: None where it was not measured.
        metric: What it is a value of.

    Returns:
        '91.42 %', '0.0412 m' or '-'.
    """
    if value is None or metric["unit"] == "%":
        return format_percent(value)
    return f"{format_significant(value)} {metric['unit']}".strip()


def format_change(before: float | None, after: float | None, metric: MetricRecord) -> str:
    """Return a change: in percentage points for a metric in %, otherwise in % of the value before.

    Args:
        before: The dense model's value.
        after: The slim model's value.
        metric: What they are values of.

    Returns:
        '-0.70 points', '+3.20 %' or '-'.
    """
    if before is None or after is None:
        return NOTHING
    if metric["unit"] == "%":
        return f"{after - before:+.2f} points"
    return f"{100 * (after - before) / abs(before):+.2f} %" if before else NOTHING


def stages_figure(values: Mapping[str, float | None], metric: MetricRecord) -> Figure | None:
    """Draw the metric after each stage as bars on one scale, from 0 to 100 % or to the largest value.

    Args:
        values: Stage -> value.
        metric: What they are values of.

    Returns:
        The figure; None where no stage was measured.
    """
    rows = [(stage, value) for stage, value in values.items() if value is not None]
    if not rows:
        return None
    frame = Frame(left=122, right=52, top=22)
    largest = 100 if metric["unit"] == "%" else max(abs(value) for _, value in rows) or 1
    x = linear_scale(0, largest, frame.left, frame.x1)
    step = (frame.y0 - frame.top) / max(len(rows), 4)
    scale = f"{metric['name']}, {metric['unit']}".rstrip(", ") + " on the test set"
    bars = []
    for index, (stage, value) in enumerate(rows):
        top, height = frame.top + step * (index + 0.2), step * 0.6
        baseline = top + step * 0.3 + 4
        kind, width = "dense" if stage == "dense" else "slim", x(abs(value)) - frame.left
        number = f"{value:.2f}" if metric["unit"] == "%" else format_significant(value)
        bars += [
            tag("text", stage, class_="key", x=frame.left - 8, y=baseline, text_anchor="end"),
            tag("rect", class_="gone", x=frame.left, y=top, width=frame.x1 - frame.left, height=height, rx=2),
            tag("rect", class_=kind, x=frame.left, y=top, width=width, height=height, rx=2),
            tag("text", number, class_="key strong", x=frame.x1 + 7, y=baseline),
        ]
    return figure(
        "stages",
        f"{metric_name(metric)} after each stage",
        ", ".join(f"{stage} {format_metric(value, metric)}" for stage, value in rows),
        frame,
        tag("text", scale, class_="label", x=frame.left, y=frame.y0 + 14),
        *bars,
    )
