"""Unstructured sparsity: how many weights are left in each layer, and what the ONNX file shows of the zeros."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from compressor.core import Comparison
from compressor.errors import VerificationFailed
from compressor.report.blocks import Block, Fact
from compressor.report.findings.base import Finding, Report
from compressor.report.findings.nm_zeros import measured_speedup
from compressor.report.format import format_count, printable
from compressor.report.run_result import RunResult

if TYPE_CHECKING:
    from compressor.steps.state import PruningState

EXPECTED = (
    "dense runtimes multiply by zeros as by any other number: expect no speed-up and no smaller file, unless the "
    "weights are stored in a sparse format or a compressed archive"
)


class MaskedLayer(TypedDict):
    """`shape`: of its weight in the slim model. `weights`: how many it had; `left`: how many may be other than zero."""

    name: str
    shape: list[int]
    weights: int
    left: int


class MasksRecord(TypedDict):
    """Unstructured masks. `weights`: of all convolutions and linear layers of the original, without biases and
    normalization; `sparsity_percent`: the share of them that is zero or removed; `onnx_initializers`: weights of
    model.onnx that have the zeros."""

    weights: int
    left: int
    sparsity_percent: float
    onnx_initializers: int
    expected: str
    measured: str | None
    layers: list[MaskedLayer]


class UnstructuredZeros(Finding):
    """Reported where the recipe masked single weights without a pattern."""

    order = 190

    def record(self, run: RunResult) -> Mapping[str, object]:
        return {"masks": unstructured_record(run.baseline, run.state, run.slim_onnx.path, run.comparisons)}

    def terminal(self, report: Report) -> Iterable[Block]:
        record: MasksRecord | None = report["masks"]
        if record is not None:
            yield Fact("Weights", describe_masks(record))
            yield Fact("", record["expected"])
            if record["measured"] is not None:
                yield Fact("", f"measured: {record['measured']}")


def unstructured_record(
    baseline: PruningState, state: PruningState, onnx: Path, comparisons: Sequence[Comparison]
) -> MasksRecord | None:
    """Return what unstructured masks did to the model.

    Args:
        baseline: The state before the first step.
        state: The state after the last step.
        onnx: The exported slim model.
        comparisons: Its latency against the dense model's.

    Returns:
        The JSON under `masks`; None without unstructured masks.

    Raises:
        VerificationFailed: The ONNX file does not hold the zeros that the module holds.
    """
    if not state.masks or state.sparse is not None:
        return None
    from compressor.sparsity.onnx_check import find_masked_weights

    layers = list(_layers(baseline, state))
    held, missing = find_masked_weights(onnx, [(layer["shape"], layer["left"]) for layer in layers])
    if missing:
        problem = f"{len(missing)} masked weights are not in it, the first of shape {missing[0]}"
        hint = "report this with the model's name"
        raise VerificationFailed("sparsity/zeros-missing-in-onnx", onnx.name, problem, hint)
    left = sum(layer["left"] for layer in layers)
    return {
        "weights": state.baseline.cost.weights,
        "left": left,
        "sparsity_percent": 100 * (1 - left / state.baseline.cost.weights),
        "onnx_initializers": held,
        "expected": EXPECTED,
        "measured": measured_speedup(state, comparisons),
        "layers": layers,
    }


def _layers(baseline: PruningState, state: PruningState) -> Iterable[MaskedLayer]:
    """Every layer that runs, in the model's order."""
    from compressor.graph.cost import macs_by_weight
    from compressor.models.inputs.example_inputs import example_inputs
    from compressor.sparsity.masking import all_weights

    slim = all_weights(state.model.module)
    running = macs_by_weight(baseline.model.module, *example_inputs(baseline.model))
    for name, dense in all_weights(baseline.model.module).items():
        if name in running:
            left = int(state.masks[name].sum()) if name in state.masks else slim[name].numel()
            yield {
                "name": name.removesuffix(".weight"),
                "shape": list(slim[name].shape),
                "weights": dense.numel(),
                "left": left,
            }


def describe_masks(record: MasksRecord) -> str:
    """'95.00 % of 11.2 M weights are zero or removed, from 41.2 % in conv1 to 99.1 % in fc; ...'."""
    shares = sorted((100 * (1 - layer["left"] / layer["weights"]), layer["name"]) for layer in record["layers"])
    (lowest, densest), (highest, sparsest) = shares[0], shares[-1]
    return (
        f"{record['sparsity_percent']:.2f} % of {format_count(record['weights'])} weights are zero or removed, from "
        f"{lowest:.1f} % in {printable(densest)} to {highest:.1f} % in {printable(sparsest)}; "
        f"{record['onnx_initializers']} of {len(record['layers'])} weights of model.onnx have these zeros"
    )
