"""Numbers and names in words, against values worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from compressor.report import words
from compressor.report.schema import MetricRecord


@pytest.mark.parametrize(
    ("form", "value", "expected"),
    [
        (words.format_count, 853_018, "853,018"),
        (words.format_count, 9_999_999, "9,999,999"),
        (words.format_count, 125_485_706, "125.5 M"),
        (words.format_count, 4_089_184_256, "4.09 G"),
        (words.format_bytes, 999, "999 B"),
        (words.format_bytes, 3_521_004, "3.52 MB"),
        (words.format_bytes, 240_912_000, "241 MB"),
        (words.significant, 0.0, "0"),
        (words.significant, 0.04213, "0.0421"),
        (words.significant, 42.13, "42.1"),
        (words.significant, 421.3, "421"),
        (words.significant, 12_345.6, "12,346"),
        (words.significant, 0.000123, "1.23e-04"),
        (words.milliseconds, None, "-"),
        (words.percent, 90.876, "90.88 %"),
        (words.error, 0.0, "0"),
        (words.error, 3.14e-13, "3.1e-13"),
        (words.error, None, "not a number"),
        (words.duration, 0.34, "0.3 s"),
        (words.duration, 59.4, "59 s"),
        (words.duration, 200, "3 min 20 s"),
        (words.duration, 3_900, "1 h 05 min"),
    ],
)
def test_a_number_in_words(form: Callable[[object], str], value: object, expected: str) -> None:
    assert form(value) == expected


def test_ratio_and_points() -> None:
    assert words.ratio(1.6049, [1.571, 1.633]) == "1.60x [1.57, 1.63]"
    assert words.ratio(None) == "-"


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
    told = (words.name_of(metric), words.quality(80.0, metric), words.quality(64.0, metric))
    assert (*told, words.format_change(80.0, 64.0, metric)) == expected
    assert (
        words.quality(None, metric)
        == words.format_change(None, 64.0, metric)
        == words.format_change(80.0, None, metric)
        == "-"
    )
    assert words.format_change(0.0, 1.0, metric) == ("+1.00 points" if unit == "%" else "-")


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
    assert words.plain(name) == expected
