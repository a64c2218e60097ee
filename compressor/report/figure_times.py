"""The figure of where the time goes: dense above slim for each of the slowest layers."""

from __future__ import annotations

from collections.abc import Sequence

from compressor.report import words
from compressor.report.schema_latency import LayerTimeRecord
from compressor.report.svg import Figure, Frame, figure, legend, linear_scale, tag, ticks

MOST = 24  # rows drawn; the table has every one
ROW = 20.0
NAME = 44  # characters of a name that fit beside the bars


def layer_times_figure(layers: Sequence[LayerTimeRecord]) -> Figure | None:
    """Microseconds of one run as pairs of bars, the slowest rows in the model's order."""
    if not layers:
        return None
    slowest = sorted(layers, key=_longer, reverse=True)[:MOST]
    rows = [layer for layer in layers if layer in slowest]
    frame = Frame(width=1040, height=34 + ROW * len(rows) + 40, left=290, right=110, top=34, bottom=40)
    heights = ticks(0, max(map(_longer, rows)) or 1.0)
    x = linear_scale(0, heights[-1], frame.left, frame.x1)
    parts = [tag("line", class_="grid", x1=x(value), x2=x(value), y1=frame.top, y2=frame.y0) for value in heights]
    parts += [
        tag("text", f"{value:,.10g}", class_="tick", x=x(value), y=frame.y0 + 16, text_anchor="middle")
        for value in heights
    ]
    for index, layer in enumerate(rows):
        top = frame.top + ROW * index
        name = words.plain(layer["name"])
        parts.append(
            tag(
                "text",
                name if len(name) <= NAME else f"...{name[-NAME + 3 :]}",
                class_="key",
                x=frame.left - 8,
                y=top + ROW / 2 + 4,
                text_anchor="end",
            )
        )
        for kind, value, down in (("dense", layer["before_us"], 2.0), ("slim", layer["after_us"], ROW / 2)):
            width = x(value or 0.0) - frame.left
            parts.append(tag("rect", class_=kind, x=frame.left, y=top + down, width=width, height=ROW / 2 - 3))
        shrunk = layer["before_us"] / layer["after_us"] if layer["before_us"] and layer["after_us"] else None
        end = x(_longer(layer)) + 7
        parts.append(tag("text", words.ratio(shrunk), class_="tick", x=end, y=top + ROW / 2 + 4))
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


def _longer(layer: LayerTimeRecord) -> float:
    return max(layer["before_us"] or 0.0, layer["after_us"] or 0.0)
