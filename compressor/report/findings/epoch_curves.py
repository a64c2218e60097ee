"""Loss, learning rate and metric over the epochs of all trainings, as panels of the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from compressor.report.findings.base import Finding
from compressor.report.findings.task_metric import judged_by, metric_name
from compressor.report.run_result import EpochRecord, RunResult
from compressor.report.schedule_plot import falls_in_powers
from compressor.report.svg import Figure, Frame, axes, figure, linear_scale, path, tag, ticks, whole_ticks

EVALUATED_ON = {"held_out": "held-out split", "train_sample": "sample of the training images"}
"""Key of an epoch's metric -> the images it was measured on."""

QUANTITIES = ("loss", "lr", "stop_value", *EVALUATED_ON)
DOTS = 30  # epochs up to which every one has a dot

Points = Sequence[tuple[int, float]]
"""(epoch, value)"""


class EpochCurves(Finding):
    """report.json holds none of this; the epochs are in run.jsonl."""

    order = 170

    def figures(self, run: RunResult) -> Iterable[Figure]:
        points, metric = epoch_curves(run.epochs), metric_name(judged_by(run.state.metric))
        rate = rate_figure if falls_in_powers(points["lr"]) else curve_figure
        panels = [
            curve_figure(key, f"{metric} by epoch, {images}", points[key]) for key, images in EVALUATED_ON.items()
        ]
        panels.append(curve_figure("loss", "Training loss", points["loss"]))
        panels.append(curve_figure("stop_value", "Value of the stopping rule", points["stop_value"]))
        panels.append(rate("lr", "Learning rate", points["lr"]))
        yield from filter(None, panels)


def epoch_curves(trainings: Sequence[Sequence[EpochRecord]]) -> dict[str, list[tuple[int, float]]]:
    """Quantity -> its finite values by epoch; the epochs of each training follow those of the training before."""
    points: dict[str, list[tuple[int, float]]] = {name: [] for name in QUANTITIES}
    offset = 0
    for training in trainings:
        numbers = [_epoch(record) for record in training]
        for number, record in zip(numbers, training, strict=True):
            for name in QUANTITIES:
                if (value := finite_value(record.get(name))) is not None:
                    points[name].append((offset + number, value))
        if numbers:
            offset += numbers[-1] - numbers[0] + 1
    return points


def _epoch(record: EpochRecord) -> int:
    epoch = record["epoch"]
    assert isinstance(epoch, int)
    return epoch


def finite_value(value: object) -> float | None:
    """`value` as a float, or None unless it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def curve_figure(name: str, label: str, points: Points) -> Figure | None:
    """Draw a quantity over epochs.

    Args:
        name: Identifier of the figure, unique on the page.
        label: Its caption.
        points: Its values by epoch.

    Returns:
        The figure; None without points.
    """
    if not points:
        return None
    frame = Frame(top=14)
    values = [value for _, value in points]
    low, high = min(values), max(values)
    if 0 <= low < 0.6 * high:
        low = 0.0
    if high - low < 1e-12:
        low, high = low - (abs(low) * 0.05 or 1), high + (abs(high) * 0.05 or 1)
    heights = ticks(low, high)
    first, last = points[0][0], points[-1][0]
    x = linear_scale(first - 0.3, max(last, first) + 0.3, frame.left, frame.x1)
    y = linear_scale(heights[0], heights[-1], frame.y0, frame.top)
    places = [(x(epoch), y(value)) for epoch, value in points]
    parts = [tag("path", class_="line slim", d=path(places))]
    if len(points) <= DOTS:
        parts += [tag("circle", class_="dot slim", cx=cx, cy=cy, r=3) for cx, cy in places]
    marks = [(height, f"{height:.10g}") for height in heights]
    axis = axes(frame, x, _epoch_ticks(points), "epoch", y, marks)
    return figure(name, label, _describe(points), frame, axis, *parts)


def rate_figure(name: str, label: str, points: Points) -> Figure:
    """Draw a quantity that falls by powers as steps on a log scale.

    Args:
        name: Identifier of the figure, unique on the page.
        label: Its caption.
        points: Its values by epoch, each held for that epoch; 0 is drawn at the height of the smallest other value.

    Returns:
        The figure.
    """
    frame = Frame(top=14)
    logs = [(epoch, math.log10(value)) for epoch, value in points if value > 0]
    smallest, largest = min(log for _, log in logs), max(log for _, log in logs)
    powers = range(math.floor(smallest + 1e-9), math.ceil(largest - 1e-9) + 1)
    x = linear_scale(points[0][0], points[-1][0] + 1, frame.left, frame.x1)
    y = linear_scale(powers[0], powers[-1], frame.y0, frame.top)
    heights = {epoch: y(smallest) for epoch, _ in points} | {epoch: y(log) for epoch, log in logs}
    places = [(x(end), height) for epoch, height in heights.items() for end in (epoch, epoch + 1)]
    marks = [(power, f"{10.0**power:g}") for power in powers]
    line = tag("path", class_="line slim", d=path(places))
    axis = axes(frame, x, _epoch_ticks(points), "epoch; log scale", y, marks)
    return figure(name, label, _describe(points), frame, axis, line)


def _describe(points: Points) -> str:
    """What a curve shows, for those who can't see it."""
    count = f"{len(points)} epochs" if len(points) > 1 else "1 epoch"
    return f"{count}, from {points[0][1]:.4g} to {points[-1][1]:.4g}"


def _epoch_ticks(points: Points) -> list[tuple[float, str]]:
    return [(epoch, str(epoch)) for epoch in whole_ticks(points[0][0], points[-1][0])]
