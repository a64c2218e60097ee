"""A new fact is one file: a subclass is discovered, and shown in report.json, on the terminal and on the page."""

from __future__ import annotations

import gc
import io
from collections.abc import Iterable, Iterator, Mapping

import pytest
from rich.console import Console

from compressor.report.blocks import Block, Fact
from compressor.report.findings import Finding, Report, build_report, findings
from compressor.report.html import render_page
from compressor.report.run_result import RunResult
from compressor.report.terminal import show_report


@pytest.fixture
def forget_new_findings() -> Iterator[None]:
    findings.cache_clear()
    yield
    findings.cache_clear()
    gc.collect()  # a class is in a cycle with itself, and a subclass for as long as it lives


def test_a_new_finding_is_everywhere(trained, forget_new_findings: None) -> None:
    class Moon(Finding):
        order = 45

        def record(self, run: RunResult) -> Mapping[str, object]:
            return {"moon": {"phase": run.recipe.seed}, "slim": {"phase": 7}}

        def terminal(self, report: Report) -> Iterable[Block]:
            yield Fact("Moon", f"phase {report['moon']['phase']} of {report['slim']['phase']}")

    report = build_report(trained.result)
    assert (report["moon"], report["slim"]["phase"]) == ({"phase": 0}, 7)
    assert {key: value for key, value in report.items() if key not in ("moon", "slim")} == {
        key: value for key, value in trained.report.items() if key != "slim"
    }
    console = Console(file=io.StringIO(), width=80)
    show_report(report, console)
    assert "phase 0 of 7" in console.file.getvalue()
    assert "phase 0 of 7" in render_page(report, trained.result)
    del Moon


def test_two_findings_may_not_write_the_same_value(trained, forget_new_findings: None) -> None:
    class Rival(Finding):
        order = 1_000

        def record(self, run: RunResult) -> Mapping[str, object]:
            return {"slim": {"params": 1}}

    with pytest.raises(ValueError, match=r"slim\.params"):
        build_report(trained.result)
    del Rival


def test_findings_have_places_of_their_own(trained) -> None:
    records = [finding.record(trained.result) for finding in findings()]
    leaves = [leaf for record in records if record for leaf in paths(record)]
    assert len(leaves) == len(set(leaves))
    assert len({finding.order for finding in findings()}) == len(findings())


def paths(value: object, place: str = "") -> list[str]:
    if not isinstance(value, dict) or not value:
        return [place]
    return [path for key, inner in value.items() for path in paths(inner, f"{place}/{key}")]
