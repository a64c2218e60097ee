"""Figures of schedules, against drawings made by hand, and that whatever is drawn keeps to its frame."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.report.schedule_plot import (
    HEIGHT,
    WIDEST,
    LearningRateCurve,
    draw_plot,
    falls_in_powers,
    turning_points,
)


def training(*rates: float) -> LearningRateCurve:
    """A rate at every epoch."""
    return {"step": "Train", "epochs": len(rates) - 1, "rates": [(float(t), rate) for t, rate in enumerate(rates)]}


DROPS = training(*[0.1] * 5, *[0.01] * 5, *[0.001] * 5, 0.001)

# Sixteen columns for the epochs 0 to 15: the drops stand right above the ticks of 5 and 10.
STEPS = """\
  0.1 ┤─────╮
      │     │
      │     │
      │     │
 0.01 ┤     ╰────╮
      │          │
      │          │
      │          │
0.001 ┤          ╰─────
      └┬────┬────┬────┬
       0    5   10   15"""


def test_a_step_on_a_log_scale() -> None:
    assert "\n".join(draw_plot(DROPS, 24)) == STEPS
    assert falls_in_powers(DROPS["rates"])


def test_a_constant_is_one_line() -> None:
    lines = draw_plot(training(0.01, 0.01, 0.01), 20)
    assert lines == ["0.01 ┤─────────────", "     └┬─────┬─────┬", "      0     1     2"]


def test_ascii_is_the_same_drawing() -> None:
    table = str.maketrans("─│╮╰╯╭┤└┬", "-|.''.|++")
    plain = draw_plot(DROPS, 60, ascii_only=True)
    assert plain == [line.translate(table) for line in draw_plot(DROPS, 60)]
    assert all(line.isascii() for line in plain)


def test_a_curve_is_drawn_from_zero_on() -> None:
    rise = training(0.0, *[index / 100 for index in range(1, 101)])
    lines = draw_plot(rise, 50)
    assert not falls_in_powers(rise["rates"])
    assert [line[:6] for line in lines[: HEIGHT : HEIGHT // 2]] == ["  1 ┤ ", "0.5 ┤ ", "  0 ┤─"]
    heights = [next(row for row in range(HEIGHT) if lines[row][column : column + 1].strip()) for column in range(5, 49)]
    assert heights == sorted(heights, reverse=True)


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (DROPS, [(0, 0.1), (5, 0.01), (10, 0.001)]),
        (training(0.0, 0.1, 0.1, 0.1, 0.1, 0.1), [(0, 0.0), (1, 0.1)]),  # warm-up
        (training(0.1, 0.5, 0.4, 0.2), [(0, 0.1), (1, 0.5), (3, 0.2)]),
        (training(0.4, 0.3, 0.2), [(0, 0.4), (2, 0.2)]),
        (training(*[0.9 ** (t // 3) for t in range(40)]), [(0, 1.0), (39, 0.9**13)]),  # too many to tell
    ],
)
def test_turning_points(rates: LearningRateCurve, expected: list[tuple[float, float]]) -> None:
    assert turning_points(rates["rates"]) == expected


rates = st.one_of(st.floats(0, 1e3), st.sampled_from([0.1, 0.01, 1e-5]))


@given(st.lists(rates, min_size=2, max_size=300), st.integers(24, 150), st.booleans())
def test_whatever_is_drawn_keeps_to_its_frame(values: list[float], width: int, ascii_only: bool) -> None:
    lines = draw_plot(training(*values), width, ascii_only=ascii_only)
    assert len(lines) <= HEIGHT + 2
    assert max(map(len, lines)) <= min(width, WIDEST)
    assert not any(line.endswith(" ") for line in lines)
