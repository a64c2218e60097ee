"""Weight sparsity and node sparsity of the slim model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypedDict

from compressor.core import Cost
from compressor.report.blocks import Block, Fact, Row
from compressor.report.findings.base import Finding, Report
from compressor.report.format import format_count, format_percent, format_quotient
from compressor.report.run_result import RunResult

CONVENTION = (
    "Weights are the entries of the weights of convolutions and linear layers, without biases and normalization; zero "
    "entries count as removed. Nodes are the output channels of these layers, except those of the last layer."
)


class RemainingShare(TypedDict):
    """How many the dense model has, and how many of them are left; `sparsity` is the removed share in %."""

    dense: int
    left: int
    sparsity: float


class RemovedRecord(TypedDict):
    """Weight sparsity and node sparsity, and what they count."""

    weights: RemainingShare
    nodes: RemainingShare
    convention: str


class RemovedWeights(Finding):
    """The shares of weights and nodes that were removed."""

    order = 40
    detail = True

    def record(self, run: RunResult) -> Mapping[str, object]:
        return {"removed": removed_record(run.dense_cost, run.slim_cost, run.zero_weights)}

    def terminal(self, report: Report) -> Iterable[Block]:
        yield Fact("Removed", describe_removed(report["removed"]))

    def page(self, report: Report) -> Iterable[Block]:
        removed: RemovedRecord = report["removed"]
        for label, share in (("Weights", removed["weights"]), ("Nodes", removed["nodes"])):
            ratio = format_quotient(share["dense"], share["left"])
            yield Row(label, format_count(share["dense"]), format_count(share["left"]), ratio)
        yield Fact("Removed", f"{describe_removed(removed)}. {removed['convention']}")


def removed_record(dense: Cost, slim: Cost, zeros: int) -> RemovedRecord:
    """Return the sparsities of the slim model.

    Args:
        dense: The cost of the dense model.
        slim: The cost of the slim model.
        zeros: Zero entries among the slim model's weights; they count as removed.

    Returns:
        The JSON under `removed`.
    """
    return {
        "weights": _share(dense.weights, slim.weights - zeros),
        "nodes": _share(dense.nodes, slim.nodes),
        "convention": CONVENTION,
    }


def _share(dense: int, left: int) -> RemainingShare:
    return {"dense": dense, "left": left, "sparsity": 100 * (1 - left / dense) if dense else 0.0}


def describe_removed(removed: RemovedRecord) -> str:
    """'95.10 % of the weights and 65.80 % of the nodes'."""
    weights, nodes = removed["weights"]["sparsity"], removed["nodes"]["sparsity"]
    return f"{format_percent(weights)} of the weights and {format_percent(nodes)} of the nodes"
