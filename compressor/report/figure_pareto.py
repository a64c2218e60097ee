"""Several targets for one model, drawn: what each costs in time against what is kept of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from compressor.report.schema_verbs import Pareto, ParetoPoint
from compressor.report.svg import Figure, Frame, axes, figure, legend, linear_scale, path, tag, ticks

FRAME = Frame(width=520, height=320, left=56, right=20)


class Mark(NamedTuple):
    words: str
    x: float
    y: float
    interval: tuple[float, float] | None = None  # of x


def pareto_figure(found: Pareto) -> list[Figure]:
    """Kept weights, and with data the metric, over latency; over multiply-adds where nothing was timed."""
    met = [point for point in found["points"] if point["reason"] is None]
    latency = met[0]["latency"]
    whole = latency["dense_ms"] if latency else 100.0
    label = f"milliseconds on {found['device']}" if latency else "% of the dense model's multiply-adds"
    kept = [_mark(point, found, 100 * (point["kept"] or 0.0)) for point in met]
    drawn = [_drawn("kept", "Kept share of a layer's L1 norm, %", label, kept, Mark("dense", whole, 100.0))]
    risk = met[0]["risk"]
    if risk is not None:
        told = [_mark(point, found, point["risk"]["slim"]) for point in met if point["risk"]]
        caption = f"{risk['metric']} before any retraining, on a few {risk['split']} images"
        drawn.append(_drawn("risk", caption, label, told, Mark("dense", whole, risk["dense"])))
    return drawn


def _mark(point: ParetoPoint, found: Pareto, height: float) -> Mark:
    latency, slim = point["latency"], point["slim"]
    if latency is not None:
        low, high = latency["slim_interval_ms"]
        return Mark(point["asked"], latency["slim_ms"], height, (low, high))
    share = slim["macs"] / found["dense"]["macs"] if slim and found["dense"]["macs"] else 0.0
    return Mark(point["asked"], 100 * share, height)


def _drawn(name: str, caption: str, label: str, plans: Sequence[Mark], dense: Mark) -> Figure:
    """The plans in the order of x, joined, each with its interval and what was asked for."""
    ordered = sorted(plans, key=lambda mark: mark.x)
    everything = [*ordered, dense]
    low, high = min(mark.y for mark in everything), max(mark.y for mark in everything)
    rows = ticks(low - 0.05 * (high - low), high) if high > low else ticks(low - 1, high + 1)
    columns = ticks(0.0, max(max((mark.x, *(mark.interval or ()))) for mark in everything))
    x = linear_scale(0.0, columns[-1], FRAME.left, FRAME.x1)
    y = linear_scale(rows[0], rows[-1], FRAME.y0, FRAME.top)
    parts = [tag("path", class_="line slim", d=path((x(mark.x), y(mark.y)) for mark in everything))]
    for mark in ordered:
        if mark.interval:
            start, end = map(x, mark.interval)
            parts.append(tag("line", class_="interval", x1=start, x2=end, y1=y(mark.y), y2=y(mark.y)))
        parts.append(tag("circle", class_="dot slim", cx=x(mark.x), cy=y(mark.y), r=4.5))
        side, anchor = (8, "start") if x(mark.x) < FRAME.width / 2 else (-8, "end")
        below = min(y(mark.y) + 16, FRAME.y0 - 4)
        parts.append(tag("text", mark.words, class_="key", x=x(mark.x) + side, y=below, text_anchor=anchor))
    parts.append(tag("circle", class_="dot dense", cx=x(dense.x), cy=y(dense.y), r=4.5))
    numbers = [[(tick, f"{tick:.10g}") for tick in each] for each in (columns, rows)]
    return figure(
        name,
        caption,
        "; ".join(f"{mark.words}: {mark.y:.4g} at {mark.x:.4g}" for mark in everything),
        FRAME,
        axes(FRAME, x, numbers[0], label, y, numbers[1]),
        *parts,
        legend(FRAME, [("slim", "plans"), ("dense", "dense")]),
    )
