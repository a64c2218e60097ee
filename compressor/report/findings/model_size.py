"""Parameters and multiply-adds of both models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypedDict

from compressor.core import Cost
from compressor.report.blocks import Block, Card, Row
from compressor.report.findings.base import Finding, Report
from compressor.report.format import format_count, format_quotient, format_ratio
from compressor.report.run_result import RunResult


class CostRecord(TypedDict):
    """Parameters of the model, and multiply-adds of its convolutions and linear layers for one input."""

    params: int
    macs: int


class ModelSize(Finding):
    """Counted on each module itself; ratios are dense / slim."""

    order = 30

    def record(self, run: RunResult) -> Mapping[str, object]:
        return {
            "dense": cost_record(run.dense_cost),
            "slim": cost_record(run.slim_cost),
            "ratios": size_ratios(run.dense_cost, run.slim_cost),
        }

    def terminal(self, report: Report) -> Iterable[Block]:
        return size_rows(report["dense"], report["slim"])

    def page(self, report: Report) -> Iterable[Block]:
        for key, label in (("macs", "fewer MACs"), ("params", "fewer parameters")):
            dense, slim = (format_count(report[model][key]) for model in ("dense", "slim"))
            yield Card("Is it smaller?", format_ratio(report["ratios"][key]), label, f"{dense} -> {slim}")
        yield from self.terminal(report)


def cost_record(cost: Cost) -> CostRecord:
    """The JSON of one model's size."""
    return {"params": cost.params, "macs": cost.macs}


def size_ratios(dense: Cost, slim: Cost) -> dict[str, float | None]:
    """Return dense / slim of parameters and multiply-adds.

    Args:
        dense: The cost of the dense model.
        slim: The cost of the slim model.

    Returns:
        `params` and `macs`; None where the slim model has none left.
    """
    return {
        "params": dense.params / slim.params if slim.params else None,
        "macs": dense.macs / slim.macs if slim.macs else None,
    }


def size_rows(dense: CostRecord, slim: CostRecord) -> Iterable[Row]:
    """Yield the rows of parameters and multiply-adds.

    Args:
        dense: The cost of the dense model.
        slim: The cost of the slim model.
    """
    sizes = (("Parameters", dense["params"], slim["params"]), ("MACs", dense["macs"], slim["macs"]))
    for label, before, after in sizes:
        yield Row(label, format_count(before), format_count(after), format_quotient(before, after))
