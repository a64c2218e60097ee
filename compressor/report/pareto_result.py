"""The result of `compress plan --pareto`: several targets for one model, as a table and as figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypedDict

from rich.console import Console

from compressor.report.blocks import Fact, Table
from compressor.report.findings.model_size import CostRecord
from compressor.report.format import NOTHING, format_count, format_ms, format_significant
from compressor.report.plan_result import AccuracyPreview, ExpectedLatency
from compressor.report.svg import Figure, Frame, axes, figure, legend, linear_scale, path, tag, ticks
from compressor.report.tables import print_facts, print_heading, print_table

FRAME = Frame(width=520, height=320, left=56, right=20)


class ParetoPoint(TypedDict):
    """What one target leads to, `memory` in bytes and `kept` as in Plan; or the `reason` why nothing meets it."""

    asked: str
    reason: str | None
    slim: CostRecord | None
    memory: int | None
    latency: ExpectedLatency | None
    kept: float | None
    risk: AccuracyPreview | None


class Pareto(TypedDict):
    """`compress plan --pareto`. `device`: the one that latency is predicted for; None without."""

    model: str
    method: str
    device: str | None
    dense: CostRecord
    points: list[ParetoPoint]


def show_pareto(pareto: Pareto, console: Console) -> None:
    """Print one row for each target, and why the others can't be met.

    Args:
        pareto: The result.
        console: Where to print.
    """
    print_heading(console, pareto["model"], method=pareto["method"])
    print_table(console, pareto_table(pareto))
    print_facts(console, pareto_facts(pareto))


def pareto_table(pareto: Pareto) -> Table:
    """Each target that can be met, in the order given; columns that nothing is known of are left out."""
    timed = any(point["latency"] for point in pareto["points"])
    previewed = any(point["risk"] for point in pareto["points"])
    latency = ("latency", "interval") if timed else ()
    columns = ("target", *latency, "MACs", "params", "kept", *(("untrained",) if previewed else ()))
    rows = [_cells(point, pareto, timed, previewed) for point in pareto["points"] if point["slim"] is not None]
    return Table(columns, rows)


def _cells(point: ParetoPoint, pareto: Pareto, timed: bool, previewed: bool) -> list[str]:
    latency, preview, kept, dense, slim = point["latency"], point["risk"], point["kept"], pareto["dense"], point["slim"]
    assert slim is not None
    cells = [point["asked"]]
    if timed:
        cells.append(format_ms(latency["slim_ms"] if latency else None))
        cells.append(" to ".join(map(format_significant, latency["slim_interval_ms"])) if latency else NOTHING)
    cells.append(f"{slim['macs'] / dense['macs']:.1%}" if dense["macs"] else NOTHING)
    cells.append(f"{slim['params'] / dense['params']:.1%}")
    cells.append(NOTHING if kept is None else f"{kept:.1%}")
    if previewed:
        cells.append(f"{preview['slim']:.4g}" if preview else NOTHING)
    return cells


def pareto_facts(pareto: Pareto) -> Iterable[Fact]:
    """What can't be met, and what the columns mean."""
    for point in pareto["points"]:
        if point["reason"] is not None:
            yield Fact(point["asked"], f"not reachable: {point['reason']}")
    macs, params = format_count(pareto["dense"]["macs"]), format_count(pareto["dense"]["params"])
    yield Fact("Shares", f"of the dense model's {macs} MACs and {params} params")
    if latency := next((point["latency"] for point in pareto["points"] if point["latency"]), None):
        source = "measured" if latency["measured"] else "predicted from the times of layers; a run measures the result"
        dense = format_ms(latency["dense_ms"])
        yield Fact("Latency", f"on {pareto['device']}, where the dense model takes {dense}; {source}")
    yield Fact("Kept", "share of a layer's L1 norm, mean over layers; retraining has to recover the rest")
    if preview := next((point["risk"] for point in pareto["points"] if point["risk"]), None):
        images = f"{preview['metric']} on a few {preview['split']} images, after recalibrating BatchNorm"
        yield Fact("Untrained", f"{images}; the dense model has {preview['dense']:.4g}")


class Mark(NamedTuple):
    """A labelled point of a figure; `interval` is that of x."""

    label: str
    x: float
    y: float
    interval: tuple[float, float] | None = None


def pareto_figures(pareto: Pareto) -> list[Figure]:
    """Draw what is kept of the weights, and with data the metric, over latency; over MACs where nothing was timed."""
    met = [point for point in pareto["points"] if point["reason"] is None]
    latency, preview = met[0]["latency"], met[0]["risk"]
    dense_x = latency["dense_ms"] if latency else 100.0
    x_label = f"milliseconds on {pareto['device']}" if latency else "% of the dense model's multiply-adds"
    kept = [_mark(point, pareto, 100 * (point["kept"] or 0.0)) for point in met]
    caption = "Kept share of a layer's L1 norm, %"
    figures = [_figure("kept", caption, x_label, kept, Mark("dense", dense_x, 100.0))]
    if preview is not None:
        metrics = [_mark(point, pareto, point["risk"]["slim"]) for point in met if point["risk"]]
        caption = f"{preview['metric']} before any retraining, on a few {preview['split']} images"
        figures.append(_figure("risk", caption, x_label, metrics, Mark("dense", dense_x, preview["dense"])))
    return figures


def _mark(point: ParetoPoint, pareto: Pareto, height: float) -> Mark:
    latency, slim, dense_macs = point["latency"], point["slim"], pareto["dense"]["macs"]
    if latency is not None:
        low, high = latency["slim_interval_ms"]
        return Mark(point["asked"], latency["slim_ms"], height, (low, high))
    return Mark(point["asked"], 100 * slim["macs"] / dense_macs if slim and dense_macs else 0.0, height)


def _figure(name: str, caption: str, x_label: str, plans: Sequence[Mark], dense: Mark) -> Figure:
    """The plans in the order of x, joined by a line, each with its interval and its target."""
    ordered = sorted(plans, key=lambda mark: mark.x)
    marks = [*ordered, dense]
    low, high = min(mark.y for mark in marks), max(mark.y for mark in marks)
    rows = ticks(low - 0.05 * (high - low), high) if high > low else ticks(low - 1, high + 1)
    columns = ticks(0.0, max(max((mark.x, *(mark.interval or ()))) for mark in marks))
    x = linear_scale(0.0, columns[-1], FRAME.left, FRAME.x1)
    y = linear_scale(rows[0], rows[-1], FRAME.y0, FRAME.top)
    parts = [tag("path", class_="line slim", d=path((x(mark.x), y(mark.y)) for mark in marks))]
    for mark in ordered:
        if mark.interval:
            start, end = map(x, mark.interval)
            parts.append(tag("line", class_="interval", x1=start, x2=end, y1=y(mark.y), y2=y(mark.y)))
        parts.append(tag("circle", class_="dot slim", cx=x(mark.x), cy=y(mark.y), r=4.5))
        side, anchor = (8, "start") if x(mark.x) < FRAME.width / 2 else (-8, "end")
        below = min(y(mark.y) + 16, FRAME.y0 - 4)
        parts.append(tag("text", mark.label, class_="key", x=x(mark.x) + side, y=below, text_anchor=anchor))
    parts.append(tag("circle", class_="dot dense", cx=x(dense.x), cy=y(dense.y), r=4.5))
    x_ticks, y_ticks = ([(tick, f"{tick:.10g}") for tick in values] for values in (columns, rows))
    return figure(
        name,
        caption,
        "; ".join(f"{mark.label}: {mark.y:.4g} at {mark.x:.4g}" for mark in marks),
        FRAME,
        axes(FRAME, x, x_ticks, x_label, y, y_ticks),
        *parts,
        legend(FRAME, [("slim", "plans"), ("dense", "dense")]),
    )
