"""A learning-rate schedule as lines of text: a step or a curve with its axes, for a terminal or for a pipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby, pairwise
from typing import TypedDict

from compressor.report.svg import whole_ticks

WIDEST = 100  # columns
HEIGHT = 9  # rows; the stages of a fall from 0.1 to 1e-5 in four equal steps are two rows apart
LISTED = 8  # learning rates that are listed one by one
ASCII = str.maketrans("─│╮╰╯╭┤└┬", "-|.''.|++")

Points = Sequence[tuple[float, float]]
"""(epochs done, learning rate)"""


class LearningRateCurve(TypedDict):
    """Learning rates of one training. `rates`: (epochs done, learning rate), evenly from the start to the end."""

    step: str
    epochs: int
    rates: list[tuple[float, float]]


def turning_points(rates: Points) -> list[tuple[float, float]]:
    """Return the points where constant learning rates begin; for a curve its start, its peak and its end."""
    first, last = rates[0], rates[-1]
    peak = max(rates, key=lambda point: point[1])
    held = _plateaus(rates)
    if _stepped(rates) and len(held) < LISTED:
        return held if held[0] == first else [first, *held]
    return list(dict.fromkeys([first, peak, last]))


def draw_plot(curve: LearningRateCurve, width: int, *, ascii_only: bool = False) -> list[str]:
    """Draw a schedule: learning rates upwards, epochs to the right.

    Args:
        curve: The schedule.
        width: Largest number of columns; narrower than about 20 is not possible.
        ascii_only: Draw with ASCII characters.

    Returns:
        The lines of text.
    """
    rates, epochs = curve["rates"], curve["epochs"]
    height, labels = _axis(rates)
    margin = max(map(len, labels.values()))
    columns = max(min(width, WIDEST) - margin - 3, 8)
    at = [column * (len(rates) - 1) // (columns - 1) for column in range(columns)]
    grid = _trace([height(rates[place][1]) for place in at], max(labels) + 1)
    beside = [labels.get(row, "") for row in range(len(grid))]
    lines = [f"{text:>{margin}} {'┤' if text else '│'}{line}" for text, line in zip(beside, grid, strict=True)]
    lines += _epochs(epochs, columns, " " * (margin + 1))
    return [line.rstrip().translate(ASCII) if ascii_only else line.rstrip() for line in lines]


def falls_in_powers(rates: Points) -> bool:
    """Whether the rates are held so far apart that only a log scale can show their steps."""
    held = [rate for _, rate in _plateaus(rates)]
    return _stepped(rates) and min(held) > 0 and max(held) / min(held) >= 8


def _stepped(rates: Points) -> bool:
    """Whether the learning rate is constant most of the time."""
    return 2 * sum(before == after for (_, before), (_, after) in pairwise(rates)) > len(rates)


def _plateaus(rates: Points) -> list[tuple[float, float]]:
    """The points where constant learning rates begin."""
    runs = [list(run) for _, run in groupby(rates, lambda point: point[1])]
    return [run[0] for run in runs if len(run) > 1]


def _axis(rates: Points) -> tuple[Callable[[float], int], Mapping[int, str]]:
    """A function from learning rate to row, counted from above, and the labels of some rows, the lowest included."""
    values = [rate for _, rate in rates]
    top = max(values)
    if min(values) == top:
        return lambda rate: 0, {0: f"{top:.3g}"}
    bottom = HEIGHT - 1
    if not falls_in_powers(rates):
        return lambda rate: round((1 - rate / top) * bottom), {
            row: f"{top * (1 - row / bottom):.3g}" for row in (0, bottom // 2, bottom)
        }
    held = [rate for _, rate in _plateaus(rates)]
    smallest = min(held)  # a warm-up from a smaller rate is drawn from here, too
    ceiling, span = math.log(top), math.log(top) - math.log(smallest)

    def row(rate: float) -> int:
        return round((ceiling - math.log(max(rate, smallest))) / span * bottom)

    return row, {row(rate): f"{rate:.3g}" for rate in sorted(held)}


def _trace(rows: Sequence[int], height: int) -> list[str]:
    """A line through one row of every column, with corners where it changes rows."""
    grid = [[" "] * len(rows) for _ in range(height)]
    grid[rows[0]][0] = "─"
    for column, (before, after) in enumerate(pairwise(rows), 1):
        for between in range(min(before, after), max(before, after)):
            grid[between][column] = "│"
        leave, arrive = ("╮", "╰") if after > before else ("╯", "╭")
        grid[before][column] = leave
        grid[after][column] = arrive if after != before else "─"
    return ["".join(line) for line in grid]


def _epochs(epochs: int, columns: int, margin: str) -> list[str]:
    """The horizontal axis, and the epochs under its ticks."""
    axis, numbers = ["─"] * (columns + 1), " " * (columns + 1)
    for tick in whole_ticks(0, epochs):
        place = 1 + round(tick / epochs * (columns - 1))
        axis[place] = "┬"
        text = str(tick)
        start = min(max(place - len(text) // 2, 0), columns + 1 - len(text))
        numbers = numbers[:start] + text + numbers[start + len(text) :]
    return [f"{margin}{'└' + ''.join(axis[1:])}", margin + numbers]
