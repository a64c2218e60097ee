"""report.html: self-contained, well formed, escaped, and whole with any of its parts missing."""

from __future__ import annotations

import copy
import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from compressor.report.findings import Report
from compressor.report.html import render_page, typeset, write_page

HOSTILE = "</title><script>alert(1)</script><img src=x onerror=alert(1)>\"' {{ 7 * 7 }}\u202e"
VOID = {"meta", "br", "img", "hr", "input", "link"}


class Outline(HTMLParser):
    """Fails on tags that don't nest; remembers tags, attributes, ids and words."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def outline(run) -> Outline:
    return Outline(render_page(run.report, run.result))


@pytest.mark.parametrize("name", ["trained", "untrained"])
def test_nothing_is_fetched(name: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(name)
    page = render_page(run.report, run.result)
    assert not re.search(r"https?:|//[a-z]|url\(|@import|javascript:", page)
    found = Outline(page)
    assert not {"script", "img", "link", "iframe", "object", "use"} & set(found.tags)
    names = [key for key, _ in found.attributes]
    assert not {"src", "href", "xlink:href", "srcset", "action"} & set(names)
    assert not [key for key in names if key.startswith("on")]


def test_a_measured_run_has_numbers_and_all_figures(trained) -> None:
    found = outline(trained)
    for expected in ("853,018", "428,074", "1.99×", "1.60×", "1.57 to 1.63", "91.42 %", "3.1e-13", "7 min 11 s"):
        assert expected in found.text
    assert found.tags.count("svg") == 6
    ids = [value for key, value in found.attributes if key == "id"]
    assert len(ids) == len(set(ids)) == 12  # a title and a description for each figure
    assert "Know before use" not in found.text
    assert "Do not ship" not in found.text


def test_a_run_without_training_accuracy_or_latency(untrained) -> None:
    found = outline(untrained)
    assert found.tags.count("svg") == 1
    assert "not retrained" in found.text
    assert "accuracy not measured" in found.text
    assert "Speed and accuracy" not in found.text
    rows = [text for text in found.words if text.endswith(".conv")]
    assert len(rows) >= 150


def test_every_name_is_escaped(trained) -> None:
    report: Report = {
        **trained.report,
        "model": HOSTILE,
        "method": HOSTILE,
        "steps": [HOSTILE],
        "warnings": [HOSTILE],
        "notes": [HOSTILE],
        "layers": [{"name": HOSTILE, "before": 8, "after": 4, "frozen": False}],
        "groups": {"total": 1, "pruned": 0, "frozen": [{"name": HOSTILE, "reason": HOSTILE}]},
        "metric": {"name": HOSTILE, "unit": HOSTILE, "higher_is_better": True},
        "metric_steps": {"dense": 90.0, HOSTILE: 80.0},
        "gates": [{"name": HOSTILE, "asked": HOSTILE, "found": HOSTILE, "ok": False, "status": "missed"}],
        "seconds": {HOSTILE: 1.0},
        "environment": {HOSTILE: HOSTILE},
        "bench": {**trained.report["bench"], "verdict": HOSTILE, "environment": {HOSTILE: HOSTILE}},
    }
    page = render_page(report, trained.result)
    assert "\u202e" not in page
    found = Outline(page)
    assert not {"script", "img"} & set(found.tags)
    assert "{{ 7 * 7 }}" in found.text
    assert found.text.count("<script>alert(1)</script>") >= 14


def test_a_failed_run_is_marked(trained) -> None:
    gate = {"name": "speedup", "asked": "at least 2.0x", "found": "1.60x", "ok": False, "status": "missed"}
    certificate = {**trained.report["certificate"], "max_abs_error": None, "ok": False}
    found = outline(trained._replace(report={**trained.report, "gates": [gate], "certificate": certificate}))
    assert "Do not ship this model." in found.text
    assert "speedup: 1.60x, required: at least 2.0x" in found.text
    assert "The surgery could not be proven exact." in found.text


def test_one_epoch_that_went_wrong_still_makes_a_page(trained) -> None:
    (training,) = trained.result.state.trainings
    training = dataclasses.replace(training, records=({"epoch": 0, "loss": float("nan"), "lr": 0.1, "accuracy": None},))
    state = dataclasses.replace(trained.result.state, trainings=(training,))
    found = outline(trained._replace(result=dataclasses.replace(trained.result, state=state)))
    assert found.tags.count("svg") == 4  # widths, latency, stages, learning rate
    assert "nan" not in " ".join(str(value) for _, value in found.attributes)


def test_the_file_is_written(trained, tmp_path: Path) -> None:
    write_page(trained.report, trained.result, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_where_the_time_goes_is_told_where_it_was_measured(trained) -> None:
    assert "Where the time goes" not in outline(trained).text
    times = [
        {"name": HOSTILE, "op": "Conv", "before_us": 40.0, "after_us": 20.0, "before_bytes": 9, "after_bytes": 5000},
        {"name": "new", "op": "Cast", "before_us": None, "after_us": 2.0, "before_bytes": 0, "after_bytes": 1},
    ]
    report = copy.deepcopy(trained.report)
    report.update(layer_times=times, left_to_win=[f"9% goes into {HOSTILE}"])
    report["dense"]["latency_ms"].update(energy_j=0.5, peak_bytes=30_000_000)
    report["slim"]["latency_ms"].update(energy_j=0.25, peak_bytes=20_000_000)
    found = outline(trained._replace(report=report))
    assert "script" not in found.tags
    assert "Time of each layer" in found.text
    assert "40.0 µs 20.0 µs 2.00× 5.00 kB" in found.text
    assert "new – 2.00 µs –" in found.text
    assert "Bottlenecks 9% goes into" in found.text
    assert "Peak memory 30.0 MB 20.0 MB 1.50×" in found.text
    assert "Energy of a run 500 mJ 250 mJ 2.00×" in found.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.60x [1.57, 1.63]", "1.60× [1.57, 1.63]"),
        ("-0.54 points", "−0.54 points"),
        ("dense 1 -> slim 2", "dense 1 → slim 2"),
        ("-", "–"),
        ("3.1e-13 at layer-2, x86_64, 0x1f", "3.1e-13 at layer-2, x86_64, 0x1f"),
    ],
)
def test_signs_are_typeset_and_names_are_not(text: str, expected: str) -> None:
    assert typeset(text) == expected
