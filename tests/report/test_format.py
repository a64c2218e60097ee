"""Numbers and names in words, against values worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from compressor.report import format as text
from compressor.report.findings.task_metric import MetricRecord, format_change, format_metric, metric_name


@pytest.mark.parametrize(
    ("form", "value", "expected"),
    [
        (text.format_count, 853_018, "853,018"),
        (text.format_count, 9_999_999, "9,999,999"),
        (text.format_count, 125_485_706, "125.5 M"),
        (text.format_count, 4_089_184_256, "4.09 G"),
        (text.format_bytes, 999, "999 B"),
        (text.format_bytes, 1_000, "1.00 kB"),
        (text.format_bytes, 3_521_004, "3.52 MB"),
        (text.format_bytes, 240_912_000, "241 MB"),
        (text.format_significant, 0.0, "0"),
        (text.format_significant, 0.04213, "0.0421"),
        (text.format_significant, 42.13, "42.1"),
        (text.format_significant, 421.3, "421"),
        (text.format_significant, 12_345.6, "12,346"),
        (text.format_significant, 0.000123, "1.23e-04"),
        (text.format_ms, None, "-"),
        (text.format_percent, 90.876, "90.88 %"),
        (text.format_error, 0.0, "0"),
        (text.format_error, 3.14e-13, "3.1e-13"),
        (text.format_error, None, "not a number"),
        (text.format_duration, 0.34, "0.3 s"),
        (text.format_duration, 59.4, "59 s"),
        (text.format_duration, 200, "3 min 20 s"),
        (text.format_duration, 3_900, "1 h 05 min"),
        (text.format_joules, 0.0123, "12.3 mJ"),
        (text.format_joules, 812.0, "812 J"),
        (text.format_joules, 12_345.0, "12.3 kJ"),
        (text.format_joules, 7.2e6, "2.00 kWh"),
        (text.format_shape, [3, 32, 32], "3 x 32 x 32"),
        (text.format_shape, [[128], [3, 8, 8]], "128 and 3 x 8 x 8"),
    ],
)
def test_a_number_in_words(form: Callable[[object], str], value: object, expected: str) -> None:
    assert form(value) == expected


def test_ratio_and_points() -> None:
    assert text.format_ratio(1.6049, [1.571, 1.633]) == "1.60x [1.57, 1.63]"
    assert text.format_ratio(None) == "-"


@pytest.mark.parametrize(
    ("name", "unit", "expected"),
    [
        ("accuracy", "%", ("Accuracy", "80.00 %", "64.00 %", "-16.00 points")),
        ("rmse", "m", ("RMSE", "80.0 m", "64.0 m", "-20.00 %")),
        ("mean IoU", "", ("Mean IoU", "80.0", "64.0", "-20.00 %")),
    ],
)
def test_a_metric_in_its_own_words(name: str, unit: str, expected: tuple[str, ...]) -> None:
    metric: MetricRecord = {"name": name, "unit": unit, "higher_is_better": unit == "%"}
    told = (metric_name(metric), format_metric(80.0, metric), format_metric(64.0, metric))
    assert (*told, format_change(80.0, 64.0, metric)) == expected
    assert format_metric(None, metric) == format_change(None, 64.0, metric) == format_change(80.0, None, metric) == "-"
    assert format_change(0.0, 1.0, metric) == ("+1.00 points" if unit == "%" else "-")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("net.pt", "net.pt"),
        ("a\nb\tc", "a b c"),
        ("\x1b[31mred", "�[31mred"),
        ("txt.\u202egnp", "txt.�gnp"),
        ("\udce9.pt", "�.pt"),
        ("été.pt", "été.pt"),
    ],
)
def test_names_lose_what_a_terminal_obeys(name: str, expected: str) -> None:
    assert text.printable(name) == expected
