"""Targets and gates of the recipe: whether each is met."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypedDict

from compressor.report.blocks import Block, Fact, Notice, Status
from compressor.report.findings.base import Finding, Report
from compressor.report.run_result import RunResult

GateStatus = Literal["met", "missed", "unstable", "unmeasured"]


class Gate(TypedDict):
    """A target or gate of the recipe. `asked` and `found` are words: 'at most 50.0 %', '49.8 %'; `ok` is True for the
    status 'met'. A gate that is not met because latency could not be measured reliably is 'unstable'."""

    name: str
    asked: str
    found: str
    ok: bool
    status: GateStatus


class GateResults(Finding):
    """Every target and gate, with what was required and what was measured."""

    order = 20

    def record(self, run: RunResult) -> Mapping[str, object]:
        return {"gates": list(run.gates)}

    def terminal(self, report: Report) -> Iterable[Block]:
        gates: list[Gate] = report["gates"]
        for gate in gates:
            status = Status(gate["ok"], "met" if gate["ok"] else "not met")
            yield Fact(gate["name"], f"{gate['found']}, required: {gate['asked']}", status)

    def page(self, report: Report) -> Iterable[Block]:
        yield from self.terminal(report)
        for gate in report["gates"]:
            if not gate["ok"]:
                yield Notice(f"{gate['name']}: {gate['found']}, required: {gate['asked']}", severe=True)
