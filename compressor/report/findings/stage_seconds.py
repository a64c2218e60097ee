"""How long each stage of the run took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from compressor.report.blocks import Block, Fact, Section, Table
from compressor.report.findings.base import Finding, Report
from compressor.report.format import format_duration
from compressor.report.run_result import RunResult

LONGEST = 3  # stages that the terminal names


class StageSeconds(Finding):
    """Seconds by stage, and their sum."""

    order = 230

    def record(self, run: RunResult) -> Mapping[str, object]:
        return {"seconds": {stage: float(seconds) for stage, seconds in run.seconds.items()}}

    def terminal(self, report: Report) -> Iterable[Block]:
        stages: Mapping[str, float] = report["seconds"]
        if stages:
            longest = sorted(stages.items(), key=lambda stage: -stage[1])[:LONGEST]
            spent = ", ".join(f"{stage} {format_duration(seconds)}" for stage, seconds in longest)
            yield Fact("Time", f"{format_duration(sum(stages.values()))}; the longest: {spent}")

    def page(self, report: Report) -> Iterable[Block]:
        stages: Mapping[str, float] = report["seconds"]
        rows = [(stage, format_duration(seconds)) for stage, seconds in stages.items()]
        total = ("total", format_duration(sum(stages.values())))
        yield Section("Time", [Table((), [*rows, total])], half=True)
