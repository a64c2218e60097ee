"""Latency over minutes: the trend by hand, and a device run end to end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.bench.compare import measure_sustained
from compressor.bench.device.session import RunnerSession
from compressor.bench.statistics import slowdown_per_minute

from .conftest import Make


def test_a_straight_line_by_hand() -> None:
    """Ten windows in 600 s, 10 ms at first and 1 ms more each minute."""
    found = slowdown_per_minute([10.0 + minute for minute in range(10)], 600.0)
    assert (found.first_ms, found.last_ms) == (10.5, 18.5)
    assert found.percent_per_minute == pytest.approx(100 * 1.0 / 10.5)


def test_a_few_disturbed_windows_do_not_make_a_trend() -> None:
    medians = [5.0] * 30
    medians[12:15] = [50.0] * 3
    found = slowdown_per_minute(medians, 300.0)
    assert (found.first_ms, found.last_ms, found.percent_per_minute) == (5.0, 5.0, 0.0)


@given(st.lists(st.floats(0.01, 100.0), min_size=10, max_size=40), st.floats(0.1, 10.0))
def test_the_trend_is_relative(medians: list[float], factor: float) -> None:
    plain, scaled = slowdown_per_minute(medians, 60.0), slowdown_per_minute([factor * each for each in medians], 60.0)
    assert scaled.last_ms == pytest.approx(factor * plain.last_ms)
    assert scaled.percent_per_minute == pytest.approx(plain.percent_per_minute, abs=1e-6)


def test_on_a_device(here: RunnerSession, linear: Make) -> None:
    found = measure_sustained(here, linear("a.onnx", width=256), batch=1, seconds=0.5)
    assert found.seconds == 0.5
    assert found.first_ms > 0
    assert found.last_ms > 0
