"""Where the time goes: the time of each layer in both models, and what keeps the slim model from being faster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

from compressor.core import LAYOUT_COPIES, Comparison
from compressor.listed import listed
from compressor.report.blocks import Block, Fact, Section, Table
from compressor.report.findings.base import Finding, Report, finite
from compressor.report.format import format_bytes, format_quotient, format_significant, format_us, printable
from compressor.report.run_result import RunResult
from compressor.report.svg import GLYPH, Figure, Frame, figure, legend, linear_scale, tag, ticks

SMALLEST_SHARE = 0.03  # of the slim model's time that is worth a sentence
HARDLY_FASTER = 0.9  # of the dense model's time: a layer that takes more did not become faster
SHORTEST_US = 5.0  # below this, an operator's time is mostly the cost of starting it
MEMORY_BOUND = 0.5  # of the highest rate of bytes measured
NAMED = 4  # layers named in a sentence

ROW_HEIGHT, BARS, NAME_LENGTH = 20.0, 24, 44
NOTE = (
    "Times come from ONNX Runtime's profiler in a pass of its own. Profiling takes time, so their sum is more than the "
    "latency. Layers with weights are listed by name; the others are summed by operator."
)


class LayerTimeRecord(TypedDict):
    """Microseconds and bytes moved in one run, dense and slim; None where a model has no such layer."""

    name: str
    op: str
    before_us: float | None
    after_us: float | None
    before_bytes: int
    after_bytes: int


class LayerTimes(Finding):
    """The profile of both models, and sentences on the slim model's bottlenecks."""

    order = 120
    detail = True

    def record(self, run: RunResult) -> Mapping[str, object]:
        times = layer_times_record(run.comparison)
        return {"layer_times": times, "left_to_win": remaining_bottlenecks(times)}

    def terminal(self, report: Report) -> Iterable[Block]:
        return bottleneck_facts(report["left_to_win"])

    def page(self, report: Report) -> Iterable[Block]:
        yield from self.terminal(report)
        layers: list[LayerTimeRecord] = report["layer_times"]
        if not layers:
            return
        rows = [(*layer_time_cells(layer), format_bytes(layer["after_bytes"])) for layer in layers]
        columns = ("layer", "dense", "slim", "dense / slim", "moved by slim")
        table = Table(columns, rows, summary=f"All {len(layers)} rows as a table")
        yield Section("Where the time goes", [layer_times_figure(layers), NOTE, table])


def layer_times_record(comparison: Comparison | None) -> list[LayerTimeRecord]:
    """The JSON of a profile, in the model's order; empty where nothing was profiled."""
    return [
        {
            "name": layer.name,
            "op": layer.op,
            "before_us": finite(layer.before_us),
            "after_us": finite(layer.after_us),
            "before_bytes": layer.before_bytes,
            "after_bytes": layer.after_bytes,
        }
        for layer in (comparison.layers if comparison else ())
    ]


def layer_time_cells(layer: LayerTimeRecord) -> tuple[str, str, str, str]:
    """Name, time before, time after, and their ratio."""
    before, after = layer["before_us"], layer["after_us"]
    return printable(layer["name"]), format_us(before), format_us(after), format_quotient(before, after)


def bottleneck_facts(sentences: Sequence[str]) -> Iterable[Fact]:
    """Facts under one label."""
    for index, sentence in enumerate(sentences):
        yield Fact("" if index else "Bottlenecks", sentence)


def remaining_bottlenecks(layers: Sequence[LayerTimeRecord]) -> list[str]:
    """Say what keeps the slim model from being faster: layout copies, layers that did not become faster, memory.

    A layer counts as limited by memory bandwidth where it moves bytes at more than half of the highest rate that any
    layer here reached: fewer multiply-adds will not make it faster, only fewer bytes.
    """
    total = sum(_after(layer) for layer in layers)
    if not total:
        return []
    sentences = []
    for layer in layers:
        share = _after(layer) / total
        if layer["name"] == LAYOUT_COPIES and share >= SMALLEST_SHARE:
            sentences.append(f"{share:.0%} of the slim model's time is spent on copies between memory layouts.")
    slow = [layer for layer in layers if _is_not_faster(layer, total)]
    if slow:
        share = sum(map(_after, slow)) / total
        sentences.append(f"{share:.0%} is spent in layers that did not become faster: {_names(slow)}.")
    rates = [_bytes_per_us(layer) for layer in layers]
    bound = [layer for layer, rate in zip(layers, rates, strict=True) if rate >= MEMORY_BOUND * max(rates) > 0]
    share = sum(map(_after, bound)) / total
    if share >= SMALLEST_SHARE:
        highest = f"{format_significant(max(rates) / 1e3)} GB/s"
        sentences.append(
            f"{share:.0%} is spent in layers that are limited by memory bandwidth (the highest rate measured is "
            f"{highest}): {_names(bound)}."
        )
    return sentences


def _after(layer: LayerTimeRecord) -> float:
    return layer["after_us"] or 0.0


def _longer(layer: LayerTimeRecord) -> float:
    return max(layer["before_us"] or 0.0, _after(layer))


def _is_not_faster(layer: LayerTimeRecord, total: float) -> bool:
    before, after = layer["before_us"], layer["after_us"]
    return bool(before and after and after >= HARDLY_FASTER * before and after >= SMALLEST_SHARE * total / 2)


def _bytes_per_us(layer: LayerTimeRecord) -> float:
    return layer["after_bytes"] / _after(layer) if _after(layer) >= SHORTEST_US else 0.0


def _names(layers: Sequence[LayerTimeRecord]) -> str:
    """The slowest by name, and how many others there are."""
    slowest = sorted(layers, key=_after, reverse=True)
    return listed([layer["name"] for layer in slowest], NAMED)


def _shortened(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else f"...{name[-NAME_LENGTH + 3 :]}"


def layer_times_figure(layers: Sequence[LayerTimeRecord]) -> Figure:
    """Draw microseconds of one run as pairs of bars: the slowest layers, in the model's order."""
    slowest = sorted(layers, key=_longer, reverse=True)[:BARS]
    rows = [layer for layer in layers if layer in slowest]
    names = [_shortened(printable(layer["name"])) for layer in rows]
    left, height = 16 + GLYPH * max(map(len, names)), 34 + ROW_HEIGHT * len(rows) + 40
    frame = Frame(width=1040, height=height, left=left, right=110, top=34, bottom=40)
    marks = ticks(0, max(map(_longer, rows)) or 1.0)
    x = linear_scale(0, marks[-1], frame.left, frame.x1)
    parts = [tag("line", class_="grid", x1=x(value), x2=x(value), y1=frame.top, y2=frame.y0) for value in marks]
    parts += [
        tag("text", f"{value:,.10g}", class_="tick", x=x(value), y=frame.y0 + 16, text_anchor="middle")
        for value in marks
    ]
    for index, (name, layer) in enumerate(zip(names, rows, strict=True)):
        top = frame.top + ROW_HEIGHT * index
        baseline = top + ROW_HEIGHT / 2 + 4
        ratio = format_quotient(layer["before_us"], layer["after_us"])
        parts.append(tag("text", name, class_="key", x=frame.left - 8, y=baseline, text_anchor="end"))
        for kind, value, down in (("dense", layer["before_us"], 2.0), ("slim", layer["after_us"], ROW_HEIGHT / 2)):
            width = x(value or 0.0) - frame.left
            parts.append(tag("rect", class_=kind, x=frame.left, y=top + down, width=width, height=ROW_HEIGHT / 2 - 3))
        parts.append(tag("text", ratio, class_="tick", x=x(_longer(layer)) + 7, y=baseline))
    label = "microseconds of one run, dense and slim, and dense / slim"
    parts.append(tag("text", label, class_="label", x=frame.left, y=frame.height - 5))
    share = sum(map(_longer, rows)) / (sum(map(_longer, layers)) or 1.0)
    return figure(
        "times",
        "Time of each layer",
        f"the {len(rows)} slowest of {len(layers)} rows, {share:.0%} of the time; the table has every number",
        frame,
        *parts,
        legend(frame, [("dense", "dense"), ("slim", "slim")]),
    )
