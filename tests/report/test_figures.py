"""The figures' geometry against the numbers they show, and the history they draw."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from compressor.report.findings.epoch_curves import curve_figure, rate_figure
from compressor.report.findings.latency import latency_figure
from compressor.report.findings.layer_widths import widths_figure
from compressor.report.findings.task_metric import MetricRecord, stages_figure
from compressor.report.svg import Figure, ticks, whole_ticks


def drawn(figure: Figure | None) -> ElementTree.Element:
    assert figure is not None
    root = ElementTree.fromstring(str(figure.picture))
    _, _, width, height = map(float, root.get("viewBox").split())
    for each in root.iter():
        for key, most in (("x", width), ("cx", width), ("x2", width), ("y", height), ("cy", height)):
            assert 0 <= float(each.get(key, 0)) <= most, ElementTree.tostring(each)
    return root


def layer(name: str, before: int, after: int, frozen: bool = False) -> dict:
    return {"name": name, "before": before, "after": after, "frozen": frozen}


def bars(root: ElementTree.Element, kind: str) -> list[float]:
    return [float(each.get("height")) for each in root.findall(f"./g/rect[@class='{kind}']")]


def test_heights_follow_the_channels() -> None:
    root = drawn(widths_figure([layer("a", 64, 16), layer("b", 32, 24), layer("c", 10, 10, frozen=True)]))
    gone, slim = bars(root, "gone"), bars(root, "slim")
    assert [gone[1] / gone[0], slim[0] / gone[0], slim[1] / gone[0]] == pytest.approx([0.5, 0.25, 0.375], abs=1e-3)
    assert len(bars(root, "frozen")) == 1
    assert root.find("./g/title").text == "a: 64 to 16 channels"


def test_very_unlike_widths_get_a_square_root_scale() -> None:
    root = drawn(widths_figure([layer("a", 2048, 512), layer("b", 64, 32)]))
    gone, slim = bars(root, "gone"), bars(root, "slim")
    assert slim[0] / gone[0] == pytest.approx(0.5, abs=1e-3)
    assert gone[1] / gone[0] == pytest.approx(math.sqrt(64 / 2048), abs=1e-3)
    assert "square-root scale" in "".join(root.itertext())


@pytest.mark.parametrize("number", [1, 20, 56, 160])
def test_any_number_of_layers_fits(number: int) -> None:
    names = [f"stage{index // 40}.block{index}.conv" for index in range(number)]
    root = drawn(widths_figure([layer(name, 64, 32) for name in names]))
    assert len(bars(root, "slim")) == number
    assert "stage0" in "".join(text for each in root.findall("text") for text in each.itertext())


def test_the_median_is_where_half_the_runs_are() -> None:
    root = drawn(latency_figure([float(x) for x in range(100, 201)], [50.0] * 10))
    dots = {each.get("class"): float(each.get("cx")) for each in root.findall("circle")}
    places = [(float(each.get("x")), float(each.text)) for each in root.findall("text") if (each.text or "").isdigit()]
    (x1, v1), (x2, v2) = places[0], places[-1]
    back = {name: v1 + (x - x1) / (x2 - x1) * (v2 - v1) for name, x in dots.items()}
    assert back == pytest.approx({"dot dense": 150, "dot slim": 50}, abs=0.2)


def test_no_samples_no_figure() -> None:
    assert latency_figure([], []) is None


PERCENT: MetricRecord = {"name": "accuracy", "unit": "%", "higher_is_better": True}


@pytest.mark.parametrize("values", [[3.0], [3.0, 3.0], [0.0, 0.0]])
def test_runs_without_spread(values: list[float]) -> None:
    drawn(latency_figure(values, []))


def test_stages_are_drawn_on_one_scale() -> None:
    root = drawn(stages_figure({"dense": 80.0, "after surgery": 20.0, "after retraining": None}, PERCENT))
    full = [float(each.get("width")) for each in root.findall("./rect[@class='gone']")]
    dense = float(root.find("./rect[@class='dense']").get("width"))
    slim = float(root.find("./rect[@class='slim']").get("width"))
    assert [dense / full[0], slim / full[1]] == pytest.approx([0.8, 0.2], abs=1e-3)
    assert stages_figure({"dense": None}, PERCENT) is None


def test_stages_of_an_error_reach_to_the_largest() -> None:
    rmse: MetricRecord = {"name": "rmse", "unit": "m", "higher_is_better": False}
    root = drawn(stages_figure({"dense": 0.02, "after surgery": 0.08}, rmse))
    full = [float(each.get("width")) for each in root.findall("./rect[@class='gone']")]
    dense = float(root.find("./rect[@class='dense']").get("width"))
    slim = float(root.find("./rect[@class='slim']").get("width"))
    assert [dense / full[0], slim / full[1]] == pytest.approx([0.25, 1], abs=1e-3)
    assert "rmse, m on the test set" in [each.text for each in root.findall("text")]
    drawn(stages_figure({"dense": 0.0}, rmse))


@pytest.mark.parametrize("points", [[(1, 0.5)], [(0, 0.0), (1, 0.0)], [(e, 0.1**e) for e in range(200)]])
def test_a_curve_stays_in_its_frame(points: list[tuple[int, float]]) -> None:
    root = drawn(curve_figure("lr", "Learning rate", points))
    line = next(each for each in root.findall("path") if each.get("class") == "line slim")
    places = [tuple(map(float, each.split())) for each in re.split("[ML]", line.get("d"))[1:]]
    assert len(places) == len(points)
    assert all(0 <= x <= 360 and 0 <= y <= 230 for x, y in places)


def test_steps_fall_by_the_same_height_for_the_same_factor() -> None:
    rates = [0.0, *[0.1] * 3, *[0.01] * 3, *[0.001] * 3]
    root = drawn(rate_figure("lr", "Learning rate", list(enumerate(rates, 1))))
    places = [tuple(map(float, each.split())) for each in re.split("[ML]", root.find("path").get("d"))[1:]]
    heights = [y for _, y in places[::2]]
    assert heights == [y for _, y in places[1::2]]
    assert heights[0] == heights[-1]  # a warm-up's 0 has no place of its own on a log scale
    assert heights[4] - heights[3] == pytest.approx(heights[7] - heights[6], abs=0.02)
    assert heights[4] > heights[3] == heights[1]
    ticks = [each.text for each in root.findall("text[@class='tick']")]
    assert {"0.1", "0.01", "0.001"} <= set(ticks)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.5, 1]), (0, 64, [0, 20, 40, 60, 80]), (88.3, 91.4, [88, 89, 90, 91, 92])],
)
def test_ticks_are_round_and_hold_the_range(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_whole_ticks() -> None:
    assert whole_ticks(1, 6) == [1, 2, 3, 4, 5, 6]
    assert whole_ticks(1, 30) == [5, 10, 15, 20, 25, 30]
    assert whole_ticks(3, 3) == [3]
