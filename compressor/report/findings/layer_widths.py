"""How many channels each layer writes, before and after."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, TypedDict

from markupsafe import Markup

from compressor.core import ChannelGroup
from compressor.execution.dropped_blocks import is_inside
from compressor.report.blocks import Block, Section, Table
from compressor.report.findings.base import Finding, Report
from compressor.report.format import printable
from compressor.report.run_result import RunResult
from compressor.report.svg import GLYPH, Figure, Frame, axes, figure, legend, linear_scale, tag, ticks

if TYPE_CHECKING:
    from compressor.core.groups import BoolArray
    from compressor.steps.state import PruningState

FRAME = Frame(width=1040, height=290, left=46, right=8, top=34, bottom=40)
SQUARE_ROOT = 8  # widths that differ by more than this factor are drawn on a square-root scale
MOST_PARTS = 14  # names under the bars


class LayerRecord(TypedDict):
    """The channels that one layer writes. `frozen`: none of them can be pruned."""

    name: str
    before: int
    after: int
    frozen: bool


class LayerWidths(Finding):
    """A figure and a table of the widths."""

    order = 110

    def record(self, run: RunResult) -> Mapping[str, object]:
        return {"layers": run_widths(run.baseline, run.state)}

    def page(self, report: Report) -> Iterable[Block]:
        layers: list[LayerRecord] = report["layers"]
        if not layers:
            return
        rows = [(row["name"], str(row["before"]), str(row["after"]), _share_left(row)) for row in layers]
        table = Table(("layer", "before", "after", "left"), rows, summary=f"All {len(layers)} layers as a table")
        yield Section("Layers", [widths_figure(layers), table])


def run_widths(baseline: PruningState, state: PruningState) -> list[LayerRecord]:
    """Count the channels that each layer writes before and after a run.

    Args:
        baseline: The state before the first step.
        state: The state after the last step.

    Returns:
        One record for each layer, in the model's order.
    """
    kept = state.removed.kept if state.removed else {}
    records = layer_widths(state.baseline.groups, kept, tuple(baseline.model.module.state_dict()))
    return [{**record, "after": 0} if is_inside(record["name"], state.model.dropped) else record for record in records]


def layer_widths(
    groups: Sequence[ChannelGroup], kept: Mapping[str, BoolArray], order: Sequence[str]
) -> list[LayerRecord]:
    """Count the channels that each layer writes before and after.

    Args:
        groups: All channel groups. A layer whose channels belong to several groups is counted over all of them, and is
            frozen only where all of them are.
        kept: Group name -> (C,) True for the channels that were kept; groups that were not pruned are absent.
        order: Names of the dense model's tensors, in the order of its state dict.

    Returns:
        One record for each layer, in the model's order.
    """
    widths: dict[str, list[int]] = {}
    prunable: set[str] = set()
    for group in groups:
        mask = kept.get(group.name)
        for slot in group.writers():
            entries = slot.positions.shape[1]
            width = widths.setdefault(slot.tensor, [0, 0])
            width[0] += group.size * entries
            width[1] += (group.size if mask is None else int(mask.sum())) * entries
            if group.frozen is None:
                prunable.add(slot.tensor)
    place = {name: index for index, name in enumerate(order)}
    return [
        {"name": tensor.removesuffix(".weight"), "before": before, "after": after, "frozen": tensor not in prunable}
        for tensor, (before, after) in sorted(widths.items(), key=lambda item: place.get(item[0], len(place)))
    ]


def _share_left(layer: LayerRecord) -> str:
    if layer["frozen"]:
        return "frozen"
    return f"{100 * layer['after'] / layer['before']:.0f} %" if layer["before"] else ""


def widths_figure(layers: Sequence[LayerRecord]) -> Figure:
    """Draw the channels of every layer before and after, as bars in the model's order."""
    widths = [layer["before"] for layer in layers]
    largest, smallest = max(widths), min(widths)
    root = largest > SQUARE_ROOT * smallest
    up = linear_scale(0, math.sqrt(largest) if root else largest, FRAME.y0, FRAME.top)
    slot = (FRAME.x1 - FRAME.left) / len(layers)
    bar = slot * (0.8 if slot > 5 else 0.9)

    def x(index: float) -> float:
        return FRAME.left + slot * index

    def y(channels: float) -> float:
        return up(math.sqrt(channels) if root else channels)

    def _column(kind: str, left: float, channels: int) -> Markup:
        return tag("rect", class_=kind, x=left, y=y(channels), width=bar, height=FRAME.y0 - y(channels))

    bars = []
    for index, layer in enumerate(layers):
        left = x(index) + (slot - bar) / 2
        title = tag("title", f"{layer['name']}: {layer['before']} to {layer['after']} channels")
        kind = "frozen" if layer["frozen"] else "slim"
        bars.append(tag("g", title, _column("gone", left, layer["before"]), _column(kind, left, layer["after"])))
    keys = [("slim", "kept"), ("gone", "removed")]
    keys += [("frozen", "frozen")] if any(layer["frozen"] for layer in layers) else []
    heights = [largest / 2**power for power in range(5)] if root else ticks(0, largest)
    before, after = sum(layer["before"] for layer in layers), sum(layer["after"] for layer in layers)
    return figure(
        "widths",
        "Channels of each layer, before and after",
        f"{len(layers)} layers, {before:,} channels before and {after:,} after. The table of layers has every number.",
        FRAME,
        axes(
            FRAME,
            x,
            [],
            f"layers in the model's order; channels, {'square-root' if root else 'linear'} scale",
            y,
            [(height, f"{height:,.0f}") for height in heights if height <= largest],
        ),
        *bars,
        *_part_names([layer["name"] for layer in layers], slot),
        legend(FRAME, keys),
    )


def _part_names(names: Sequence[str], slot: float) -> list[Markup]:
    """Names of the model's parts under the bars: as deep into the dotted names as there is room for."""

    def parts(depth: int) -> list[tuple[str, int]]:
        prefixes = groupby(names, lambda name: ".".join(name.split(".")[:depth]))
        return [(part, len(list(same))) for part, same in prefixes]

    candidates = [blocks for blocks in map(parts, range(1, 5)) if len(blocks) <= MOST_PARTS]
    marks, start, free = [], 0, FRAME.left
    for part, size in candidates[-1] if candidates else []:
        left = FRAME.left + slot * start
        marks.append(tag("line", class_="base", x1=left, x2=left, y1=FRAME.y0, y2=FRAME.y0 + 5))
        middle, half = left + slot * size / 2, GLYPH * len(printable(part)) / 2
        if middle - half >= free - 12 and middle + half <= FRAME.width:
            marks.append(tag("text", part, class_="tick", x=middle, y=FRAME.y0 + 17, text_anchor="middle"))
            free = middle + half + 18
        start += size
    return marks
