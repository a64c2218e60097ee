"""The residual blocks that were dropped, and how they were chosen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypedDict

from compressor.listed import listed
from compressor.report.blocks import Block, Fact, Section, Table
from compressor.report.findings.base import Finding, Report, finite
from compressor.report.format import printable
from compressor.report.run_result import RunResult

if TYPE_CHECKING:
    from compressor.steps.state import PruningState

NAMED = 6  # blocks that a line names


class BlockRecord(TypedDict):
    """One block of the dense model. `divergence`: of the answers once it and the blocks before it are dropped and
    repaired by an affine map; None where the recipe named the blocks."""

    name: str
    params: int
    divergence: float | None


class CountRecord(TypedDict):
    """The divergence of the answers with this number of blocks dropped and channels pruned to the target."""

    blocks: int
    divergence: float | None


class DroppedRecord(TypedDict):
    """`dropped`: in the order of choice. `candidates`: how many the model has. `by_count`: what `auto` compared."""

    dropped: list[BlockRecord]
    candidates: int
    by_count: list[CountRecord]


class BlocksDropped(Finding):
    """A line with the names; on the page a table, and what other numbers of blocks would give."""

    order = 46

    def record(self, run: RunResult) -> Mapping[str, object]:
        return {"dropped_blocks": dropped_blocks(run.baseline, run.state)}

    def terminal(self, report: Report) -> Iterable[Block]:
        if (record := report.get("dropped_blocks")) is not None:
            yield Fact("Blocks", describe_dropped(record))

    def page(self, report: Report) -> Iterable[Block]:
        yield from self.terminal(report)
        record: DroppedRecord | None = report.get("dropped_blocks")
        if record is None:
            return
        rows = [(block["name"], f"{block['params']:,}", _number(block["divergence"])) for block in record["dropped"]]
        tables = [Table(("block", "parameters", "divergence with it and those above"), rows)] if rows else []
        if record["by_count"]:
            counts = [(str(count["blocks"]), _number(count["divergence"])) for count in record["by_count"]]
            tables.append(Table(("blocks dropped", "divergence at the target, after reconstruction"), counts))
        if tables:
            yield Section("Dropped blocks", tables)


def dropped_blocks(baseline: PruningState, state: PruningState) -> DroppedRecord | None:
    """Record the blocks that a run dropped.

    Args:
        baseline: The state before the first step.
        state: The state after the last step.

    Returns:
        The JSON under `dropped_blocks`; None for a recipe that drops none.
    """
    selection = state.blocks
    if selection is None:
        return None
    divergence = selection.divergence or (None,) * len(selection.dropped)
    return {
        "dropped": [
            {"name": name, "params": _params(baseline, name), "divergence": None if value is None else finite(value)}
            for name, value in zip(selection.dropped, divergence, strict=True)
        ],
        "candidates": len(selection.candidates),
        "by_count": [
            {"blocks": count, "divergence": finite(value)} for count, value in sorted(selection.by_count.items())
        ],
    }


def has_drops(record: DroppedRecord | None) -> bool:
    """Whether a run or a plan dropped any block."""
    return record is not None and bool(record["dropped"])


def describe_dropped(record: DroppedRecord) -> str:
    """'2 of 25 residual blocks were dropped: layer1.3, layer2.4'."""
    names = [printable(block["name"]) for block in record["dropped"]]
    if not names:
        return f"none of {record['candidates']} residual blocks was dropped"
    verb = "was" if len(names) == 1 else "were"
    return f"{len(names)} of {record['candidates']} residual blocks {verb} dropped: {listed(names, NAMED)}"


def _params(baseline: PruningState, name: str) -> int:
    return sum(parameter.numel() for parameter in baseline.model.module.get_submodule(name).parameters())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
