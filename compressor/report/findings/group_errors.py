"""Error curves: the predicted divergence of the answers by the number of channels that each group keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from compressor.report.blocks import Block, Fact, Section, Table
from compressor.report.findings.base import Finding, Report
from compressor.report.findings.blocks_dropped import has_drops
from compressor.report.format import format_significant, printable
from compressor.report.svg import Figure, Frame, axes, figure, linear_scale, path, tag, ticks

if TYPE_CHECKING:
    from compressor.core import ErrorCurves
    from compressor.report.run_result import RunResult

FRAME = Frame(width=1040, height=290, left=56, right=120, top=34, bottom=40)
POINTS = 33
"""Points of a curve in the report; error_curves.json has every width."""
LISTED = 12
CHARACTER, LINE = 6.4, 12.0  # pixels that a character of a name takes, and a line
NAMED = 6  # curves with a name in the figure
BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.-~=+*#"
WIDTH = 16  # characters of a curve


class GroupErrors(TypedDict):
    """`divergence`: predicted for this group alone. `curve`: pairs of channels kept and predicted divergence."""

    name: str
    channels: int
    kept: int
    sensitivity: float
    error: float
    divergence: float
    curve: list[tuple[int, float]]
    note: str


class ErrorCurvesRecord(TypedDict):
    """Predictions for the repaired model before any training. `agreement` in %, None without classes."""

    samples: int
    seconds: float
    divergence: float
    agreement: float | None
    groups: list[GroupErrors]


class GroupErrorCurves(Finding):
    """What the selection of channels by error predicted."""

    order = 62

    def record(self, run: RunResult) -> Mapping[str, object]:
        return {"error_curves": curves_record(run.state.errors)}

    def terminal(self, report: Report) -> Iterable[Block]:
        record: ErrorCurvesRecord | None = report["error_curves"]
        if record is not None:
            dropped = has_drops(report.get("dropped_blocks"))
            yield Fact("Predicted", describe_prediction(record["divergence"], record["agreement"], dropped))

    def page(self, report: Report) -> Iterable[Block]:
        yield from self.terminal(report)
        record: ErrorCurvesRecord | None = report["error_curves"]
        if record is not None and record["groups"]:
            yield Section("Error by channels kept", [curves_figure(record["groups"]), curves_table(record)])


def curves_record(errors: ErrorCurves | None) -> ErrorCurvesRecord | None:
    """Return the record of error curves; None where channels were not selected by error."""
    if errors is None:
        return None
    groups = [_group(name, errors) for name in errors.curves]
    divergence = errors.divergence(errors.removed)
    agreement = errors.agreement(divergence)
    return {
        "samples": errors.samples,
        "seconds": round(errors.seconds, 3),
        "divergence": divergence,
        "agreement": None if agreement is None else 100 * agreement,
        "groups": sorted(groups, key=lambda group: -group["divergence"]),
    }


def curves_json(errors: ErrorCurves) -> dict[str, Any]:
    """Return every width of every curve, and the channels in the order of their removal."""
    return {
        name: {
            "order": curve.order.tolist(),
            "errors": [float(f"{error:.6g}") for error in curve.errors.tolist()],
            "sensitivity": curve.sensitivity,
            "removed": errors.removed.get(name, 0),
            "note": curve.note,
        }
        for name, curve in errors.curves.items()
    }


def describe_prediction(divergence: float, agreement: float | None, blocks_dropped: bool = False) -> str:
    """Say what the curves predict.

    Args:
        divergence: Of the answers, in nats for classes and as a squared relative error otherwise.
        agreement: Share of samples with the same best class, in %; None without classes.
        blocks_dropped: Whether the curves are those of the model without dropped blocks.

    Returns:
        A sentence without a subject.
    """
    if blocks_dropped:
        return f"divergence {format_significant(divergence)} by the removed channels; the dropped blocks add to it"
    text = f"divergence {format_significant(divergence)} after reconstruction, before any training"
    return text if agreement is None else f"{agreement:.1f} % agreement with the dense model; {text}"


def curves_table(record: ErrorCurvesRecord, *, ascii_only: bool = False) -> Table:
    """Draw the curves of the groups that cost most, one a row.

    Args:
        record: The curves.
        ascii_only: Draw with ASCII characters.

    Returns:
        The table; curves begin with one channel and end with all of them.
    """
    groups = record["groups"][:LISTED]
    top = max((divergence for group in groups for _, divergence in group["curve"]), default=0.0)
    rows = [
        (
            printable(group["name"]),
            str(group["channels"]),
            str(group["kept"]),
            format_significant(group["divergence"]),
            _bars(group, top, ASCII_BARS if ascii_only else BARS),
        )
        for group in groups
    ]
    summary = f"{len(groups)} of {len(record['groups'])} groups, by divergence"
    return Table(("group", "channels", "kept", "divergence", "divergence by channels kept"), rows, summary)


def curves_figure(groups: Sequence[GroupErrors]) -> Figure:
    """Draw all curves over the share of channels that is kept, with a dot at the chosen width.

    Args:
        groups: The groups, the most expensive first.

    Returns:
        The figure; the largest divergence shown is that of the most expensive choice times three.
    """
    top = 3 * max((group["divergence"] for group in groups), default=0.0) or 1.0
    rows = ticks(0.0, top)
    x, y = linear_scale(0.0, 100.0, FRAME.left, FRAME.x1), linear_scale(0.0, rows[-1], FRAME.y0, FRAME.top)
    parts, labels, taken = [], [], list[tuple[float, float, float]]()
    for number, group in enumerate(groups):
        size = group["channels"]
        shown = [(100 * kept / size, value) for kept, value in group["curve"] if value <= rows[-1]]
        parts.append(tag("path", class_="line slim thin", d=path((x(share), y(value)) for share, value in shown)))
        place = x(100 * group["kept"] / size), y(min(group["divergence"], rows[-1]))
        parts.append(tag("circle", class_="dot slim", cx=place[0], cy=place[1], r=3.5))
        box = place[0] + 7, place[0] + 7 + CHARACTER * len(group["name"]), place[1] - 5  # left, right, base
        if number < NAMED and group["divergence"] > 0 and not any(_overlap(box, other) for other in taken):
            labels.append(tag("text", group["name"], class_="key", x=box[0], y=box[2]))
            taken.append(box)
    x_ticks = [(float(share), f"{share} %") for share in range(0, 101, 20)]
    y_ticks = [(value, f"{value:.4g}") for value in rows]
    return figure(
        "error-curves",
        "Predicted divergence of the answers by the share of channels that a group keeps",
        "; ".join(f"{group['name']}: {group['divergence']:.3g} at {group['kept']}" for group in groups[:NAMED]),
        FRAME,
        axes(FRAME, x, x_ticks, "channels kept", y, y_ticks),
        *parts,
        *labels,
    )


def _overlap(box: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
    return abs(box[2] - other[2]) < LINE and box[0] < other[1] and other[0] < box[1]


def _group(name: str, errors: ErrorCurves) -> GroupErrors:
    curve, removed = errors.curves[name], errors.removed.get(name, 0)
    size = len(curve.errors)
    places = sorted({round(index * (size - 1) / (POINTS - 1)) for index in range(POINTS)})
    return {
        "name": name,
        "channels": size,
        "kept": size - removed,
        "sensitivity": float(curve.sensitivity),
        "error": float(curve.errors[removed]),
        "divergence": float(curve.weighted[removed]),
        "curve": [(size - place, float(curve.weighted[place])) for place in reversed(places)],
        "note": curve.note,
    }


def _bars(group: GroupErrors, top: float, bars: str) -> str:
    """The curve as one line of characters; their height is the square root of the divergence."""
    curve = group["curve"]
    places = [round(index * (len(curve) - 1) / (WIDTH - 1)) for index in range(WIDTH)]
    heights = [(curve[place][1] / top) ** 0.5 if top > 0 else 0.0 for place in places]
    return "".join(bars[min(len(bars) - 1, int(height * len(bars)))] for height in heights)
