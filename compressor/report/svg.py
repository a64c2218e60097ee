"""Inline SVG: escaped elements, scales, ticks, and a frame with axes.

Colours are CSS classes, so that the page's style sheet sets them for light, dark and print.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup, escape

from compressor.report.format import printable

Scale = Callable[[float], float]
GLYPH = 6.1  # mean width of a character at the figures' font size


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """Return one element.

    Args:
        name: Of the element.
        children: Text or elements; they are escaped unless they are Markup.
        attributes: `text_anchor` stands for text-anchor, `class_` for class.
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _value(value)) for key, value in attributes.items()
    )
    inner = Markup("").join(child if isinstance(child, Markup) else escape(printable(child)) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, inner)


def _value(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else printable(value)


def path(points: Iterable[tuple[float, float]]) -> str:
    """Return the attribute `d` of a path through `points`."""
    return "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in points)


def linear_scale(low: float, high: float, start: float, end: float) -> Scale:
    """Return the linear function that maps an interval of values to an interval of coordinates.

    Args:
        low: Value at `start`.
        high: Value at `end`, other than `low`.
        start: Coordinate of `low`.
        end: Coordinate of `high`.
    """
    return lambda value: start + (end - start) * (value - low) / (high - low)


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Return round numbers that enclose an interval; they are 1, 2 or 5 times a power of ten apart.

    Args:
        low: The first tick is at most this.
        high: The last tick is at least this, and more than `low`.
        about: Number of steps to aim for.
    """
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def whole_ticks(low: int, high: int, most: int = 7) -> list[int]:
    """Return the multiples of one step within [low, high]; `low` where there is none.

    Args:
        low: Smallest tick.
        high: Largest tick.
        most: Number of ticks that is not exceeded by much.
    """
    step = next(
        factor * 10**power for power in range(12) for factor in (1, 2, 5) if (high - low) / (factor * 10**power) < most
    )
    return [value for value in range(low, high + 1) if value % step == 0] or [low]


@dataclass(frozen=True, slots=True)
class Frame:
    """A drawing of `width` x `height` with margins around the plot, in CSS pixels at natural size."""

    width: float = 360
    height: float = 230
    left: float = 46
    right: float = 14
    top: float = 34
    bottom: float = 38

    @property
    def x1(self) -> float:
        return self.width - self.right

    @property
    def y0(self) -> float:
        return self.height - self.bottom


def axes(
    frame: Frame,
    x: Scale,
    x_ticks: Sequence[tuple[float, str]],
    x_label: str,
    y: Scale,
    y_ticks: Sequence[tuple[float, str]],
) -> Markup:
    """Return grid lines and numbers for y, and a base line, numbers and a label for x.

    Args:
        frame: The drawing.
        x: Value -> horizontal coordinate.
        x_ticks: (value, text).
        x_label: What x shows.
        y: Value -> vertical coordinate.
        y_ticks: (value, text).
    """
    parts = []
    for value, text in y_ticks:
        parts.append(tag("line", class_="grid", x1=frame.left, x2=frame.x1, y1=y(value), y2=y(value)))
        parts.append(tag("text", text, class_="tick", x=frame.left - 7, y=y(value) + 4, text_anchor="end"))
    for value, text in x_ticks:
        parts.append(tag("text", text, class_="tick", x=x(value), y=frame.y0 + 16, text_anchor="middle"))
    middle = (frame.left + frame.x1) / 2
    parts.append(tag("line", class_="base", x1=frame.left, x2=frame.x1, y1=frame.y0, y2=frame.y0))
    parts.append(tag("text", x_label, class_="label", x=middle, y=frame.height - 5, text_anchor="middle"))
    return Markup("").join(parts)


def legend(frame: Frame, entries: Sequence[tuple[str, str]]) -> Markup:
    """Return a legend above the plot.

    Args:
        frame: The drawing.
        entries: (CSS class of the mark, text).
    """
    parts, left = [], frame.left
    for kind, text in entries:
        parts.append(tag("rect", class_=kind, x=left, y=8, width=10, height=10, rx=2))
        parts.append(tag("text", text, class_="key", x=left + 15, y=17))
        left += 15 + GLYPH * len(text) + 18
    return Markup("").join(parts)


class Figure(NamedTuple):
    """A captioned SVG picture. `first`: on the page's first screen."""

    caption: str
    picture: Markup
    first: bool = False


def figure(name: str, caption: str, description: str, frame: Frame, *parts: Markup) -> Figure:
    """Return a picture with a title and a description for those who can't see it.

    Args:
        name: Identifier, unique on the page.
        caption: Its title.
        description: What it shows.
        frame: Its size.
        parts: Its elements, in drawing order.
    """
    picture = tag(
        "svg",
        tag("title", caption, id=f"{name}-title"),
        tag("desc", description, id=f"{name}-desc"),
        *parts,
        viewBox=f"0 0 {frame.width:g} {frame.height:g}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
    )
    return Figure(caption, picture)
