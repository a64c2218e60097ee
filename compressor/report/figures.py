"""The page's figures as inline SVG: layer widths, latency distribution, the metric by stage, curves over epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby

from markupsafe import Markup

from compressor.report import words
from compressor.report.schema import LayerRecord, MetricRecord
from compressor.report.schema_latency import Samples
from compressor.report.svg import (
    GLYPH,
    Figure,
    Frame,
    axes,
    figure,
    legend,
    linear_scale,
    path,
    tag,
    ticks,
    whole_ticks,
)

WIDE = Frame(width=1040, height=290, left=46, right=8, top=34, bottom=40)
PANEL = Frame()
SQUASH = 8  # widths that differ by more than this factor get a square-root scale


def widths_figure(layers: Sequence[LayerRecord]) -> Figure | None:
    """Channels of every layer before and after, as bars in the model's order."""
    if not layers:
        return None
    frame, most = WIDE, max(layer["before"] for layer in layers)
    squash = most > SQUASH * min(layer["before"] for layer in layers)
    up = linear_scale(0, math.sqrt(most) if squash else most, frame.y0, frame.top)
    slot = (frame.x1 - frame.left) / len(layers)
    bar = slot * (0.8 if slot > 5 else 0.9)

    def y(channels: float) -> float:
        return up(math.sqrt(channels) if squash else channels)

    def x(index: float) -> float:
        return frame.left + slot * index

    bars = []
    for index, layer in enumerate(layers):
        before, after = layer["before"], layer["after"]
        left = x(index) + (slot - bar) / 2
        bars.append(
            tag(
                "g",
                tag("title", f"{layer['name']}: {before} to {after} channels"),
                tag("rect", class_="gone", x=left, y=y(before), width=bar, height=frame.y0 - y(before)),
                tag(
                    "rect",
                    class_="frozen" if layer["frozen"] else "slim",
                    x=left,
                    y=y(after),
                    width=bar,
                    height=frame.y0 - y(after),
                ),
            )
        )
    keys = [("slim", "left"), ("gone", "removed")]
    keys += [("frozen", "frozen")] if any(layer["frozen"] for layer in layers) else []
    scale = "square-root scale" if squash else "linear scale"
    heights = [most / 2**power for power in range(5)] if squash else ticks(0, most)
    return figure(
        "widths",
        "Channels of each layer, before and after",
        f"{len(layers)} layers, {sum(layer['before'] for layer in layers):,} channels before and "
        f"{sum(layer['after'] for layer in layers):,} after. The table of layers has every number.",
        frame,
        axes(
            frame,
            x,
            [],
            f"layers in the model's order; channels, {scale}",
            y,
            [(height, f"{height:,.0f}") for height in heights if height <= most],
        ),
        *bars,
        *_blocks(frame, [layer["name"] for layer in layers], slot),
        legend(frame, keys),
    )


def _blocks(frame: Frame, names: Sequence[str], slot: float) -> list[Markup]:
    """Names of the parts of the model under the bars: as deep into the dotted names as there is room for."""

    def cut(depth: int) -> list[tuple[str, int]]:
        parts = groupby(names, lambda name: ".".join(name.split(".")[:depth]))
        return [(part, len(list(same))) for part, same in parts]

    depths = [blocks for blocks in map(cut, range(1, 5)) if len(blocks) <= 14]
    made, start, free = [], 0, frame.left
    for part, size in depths[-1] if depths else []:
        left = frame.left + slot * start
        made.append(tag("line", class_="base", x1=left, x2=left, y1=frame.y0, y2=frame.y0 + 5))
        middle, half = left + slot * size / 2, GLYPH * len(words.plain(part)) / 2
        if middle - half >= free - 12 and middle + half <= frame.width:
            made.append(tag("text", part, class_="tick", x=middle, y=frame.y0 + 17, text_anchor="middle"))
            free = middle + half + 18
        start += size
    return made


def latency_figure(samples: Samples) -> Figure | None:
    """Share of runs that took at most so long: the further left, the faster; the steeper, the steadier."""
    frame = PANEL
    runs = {name: sorted(values) for name, values in (("dense", samples["dense"]), ("slim", samples["slim"]))}
    runs = {name: values for name, values in runs.items() if values}
    if not runs:
        return None
    low, high = min(values[0] for values in runs.values()), max(_at(values, 0.99) for values in runs.values())
    room = (high - low) * 0.06 or high * 0.05 or 1.0
    x = linear_scale(low - room, high + room, frame.left, frame.x1)
    y = linear_scale(0, 1, frame.y0, frame.top)
    curves, keys = [], []
    for name, values in runs.items():
        shares = [index / 200 for index in range(199)]
        step_points = [(x(low - room), frame.y0)]
        step_points += [(min(x(_at(values, share)), frame.x1), y(share)) for share in shares]
        curves.append(tag("path", class_=f"line {name}", d=path(step_points)))
        curves.append(tag("circle", class_=f"dot {name}", cx=x(_at(values, 0.5)), cy=y(0.5), r=4.5))
        keys.append((name, f"{name}: p50 {words.milliseconds(_at(values, 0.5))}"))
    inside = [tick for tick in ticks(low - room, high + room) if low - room <= tick <= high + room]
    return figure(
        "latency",
        "Latency, cumulative share of runs",
        "; ".join(f"{text}, {len(values):,} runs" for (_, text), values in zip(keys, runs.values(), strict=True)),
        frame,
        axes(
            frame,
            x,
            [(tick, f"{tick:g}") for tick in inside],
            "milliseconds of one run",
            y,
            [(share, f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 1)],
        ),
        *curves,
        legend(frame, keys),
    )


def _at(ordered: Sequence[float], share: float) -> float:
    """The sample below which `share` of all samples lie."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _bare(value: float, metric: MetricRecord) -> str:
    return f"{value:.2f}" if metric["unit"] == "%" else words.significant(value)


def stages_figure(values: Mapping[str, float | None], metric: MetricRecord) -> Figure | None:
    """The metric after each stage, as bars on one scale from 0: to 100 where it is in %, else to the largest."""
    rows = [(stage, value) for stage, value in values.items() if value is not None]
    if not rows:
        return None
    frame = Frame(left=122, right=52, top=22)
    most = 100 if metric["unit"] == "%" else max(abs(value) for _, value in rows) or 1
    x = linear_scale(0, most, frame.left, frame.x1)
    step = (frame.y0 - frame.top) / max(len(rows), 4)
    scale = f"{metric['name']}, {metric['unit']}".rstrip(", ") + " on the test set"
    bars = []
    for index, (stage, value) in enumerate(rows):
        top = frame.top + step * index + step * 0.2
        middle = top + step * 0.3 + 4
        bars += [
            tag("text", stage, class_="key", x=frame.left - 8, y=middle, text_anchor="end"),
            tag("rect", class_="gone", x=frame.left, y=top, width=x(most) - frame.left, height=step * 0.6, rx=2),
            tag(
                "rect",
                class_="dense" if stage == "dense" else "slim",
                x=frame.left,
                y=top,
                width=x(abs(value)) - frame.left,
                height=step * 0.6,
                rx=2,
            ),
            tag("text", _bare(value, metric), class_="key strong", x=frame.x1 + 7, y=middle),
        ]
    return figure(
        "stages",
        f"{words.name_of(metric)} at each stage",
        ", ".join(f"{stage} {words.quality(value, metric)}" for stage, value in rows),
        frame,
        tag("text", scale, class_="label", x=frame.left, y=frame.y0 + 14),
        *bars,
    )


def step_points(name: str, label: str, points: Sequence[tuple[int, float]]) -> Figure:
    """A quantity that falls by powers, held for each epoch, on a log scale; 0 stands where the least else does."""
    frame = Frame(top=14)
    logs = [(epoch, math.log10(value)) for epoch, value in points if value > 0]
    least, first, last = min(log for _, log in logs), points[0][0], points[-1][0]
    powers = range(math.floor(least + 1e-9), math.ceil(max(log for _, log in logs) - 1e-9) + 1)
    x = linear_scale(first, last + 1, frame.left, frame.x1)
    y = linear_scale(powers[0], powers[-1], frame.y0, frame.top)
    heights = {epoch: y(least) for epoch, _ in points} | {epoch: y(log) for epoch, log in logs}
    places = [(x(at), up) for epoch, up in heights.items() for at in (epoch, epoch + 1)]
    marks = [(power, f"{10.0**power:g}") for power in powers]
    line = tag("path", class_="line slim", d=path(places))
    return figure(
        name, label, _span(points), frame, axes(frame, x, _epochs(points), "epoch; log scale", y, marks), line
    )


def curve_figure(name: str, label: str, points: Sequence[tuple[int, float]]) -> Figure | None:
    """A quantity over epochs."""
    if not points:
        return None
    frame = Frame(top=14)
    values = [value for _, value in points]
    low, high = min(values), max(values)
    if low >= 0 and low < 0.6 * high:
        low = 0.0
    if high - low < 1e-12:
        low, high = low - (abs(low) * 0.05 or 1), high + (abs(high) * 0.05 or 1)
    heights = ticks(low, high)
    first, last = points[0][0], points[-1][0]
    x = linear_scale(first - 0.3, max(last, first) + 0.3, frame.left, frame.x1)
    y = linear_scale(heights[0], heights[-1], frame.y0, frame.top)
    places = [(x(epoch), y(value)) for epoch, value in points]
    parts = [tag("path", class_="line slim", d=path(places))]
    if len(points) <= 30:
        parts += [tag("circle", class_="dot slim", cx=across, cy=up, r=3) for across, up in places]
    marks = [(height, f"{height:.10g}") for height in heights]
    return figure(name, label, _span(points), frame, axes(frame, x, _epochs(points), "epoch", y, marks), *parts)


def _span(points: Sequence[tuple[int, float]]) -> str:
    """What a curve shows, in words."""
    return f"{len(points)} epochs, from {points[0][1]:.4g} to {points[-1][1]:.4g}"


def _epochs(points: Sequence[tuple[int, float]]) -> list[tuple[float, str]]:
    """Marks of the epochs on the axis below."""
    return [(epoch, str(epoch)) for epoch in whole_ticks(points[0][0], points[-1][0])]
