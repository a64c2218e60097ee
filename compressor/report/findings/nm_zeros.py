"""N:M sparsity: what the masks keep, what the ONNX file shows of them, what a runtime gains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from compressor.core import Comparison
from compressor.errors import VerificationFailed
from compressor.report.blocks import Block, Fact
from compressor.report.findings.base import Finding, Report
from compressor.report.run_result import RunResult

if TYPE_CHECKING:
    from compressor.sparsity.retained_magnitude import RetainedMagnitude, RetainedShares
    from compressor.steps.state import PruningState


class KeptShares(TypedDict):
    """% of the sum of |w| that masks keep: in the original order of channels, in the present one, and the upper bound
    for any pattern with as many zeros."""

    first: float
    now: float
    bound: float


class SparseLayer(TypedDict):
    """`reason`: why the layer stays dense; then `kept` is None."""

    name: str
    shape: list[int]
    reason: str | None
    kept: KeptShares | None


class SparsityRecord(TypedDict):
    """N:M masks. `eligible`: layers with a mask; `onnx_initializers`: weights of model.onnx that keep the pattern."""

    pattern: list[int]
    runtime: str
    eligible: int
    zeros: int
    masked_weights: int
    kept_percent: KeptShares
    onnx_initializers: int
    predicted: str
    measured: str | None
    layers: list[SparseLayer]


class NMZeros(Finding):
    """Reported where the recipe set N:M masks."""

    order = 180

    def record(self, run: RunResult) -> Mapping[str, object]:
        return {"sparsity": nm_record(run.state, run.slim_onnx.path, run.comparisons)}

    def terminal(self, report: Report) -> Iterable[Block]:
        record: SparsityRecord | None = report["sparsity"]
        if record is not None:
            yield Fact("Sparsity", describe_sparsity(record))
            yield Fact("", record["predicted"])
            if record["measured"] is not None:
                yield Fact("", f"measured: {record['measured']}")


def nm_record(state: PruningState, onnx: Path, comparisons: Sequence[Comparison]) -> SparsityRecord | None:
    """Return what N:M masks did to the model.

    Args:
        state: The state after the last step.
        onnx: The exported slim model.
        comparisons: Its latency against the dense model's.

    Returns:
        The JSON under `sparsity`; None without N:M masks.

    Raises:
        VerificationFailed: The ONNX file does not hold the zeros that the module holds.
    """
    retained = state.sparse
    predicted = predicted_speedup(state, comparisons[0].provider if comparisons else None)
    if retained is None or predicted is None:
        return None
    return {
        "pattern": list(retained.sparsity.pattern),
        "runtime": retained.sparsity.runtime,
        "eligible": len(state.masks),
        "zeros": state.masked_weights,
        "masked_weights": sum(mask.numel() for mask in state.masks.values()),
        "kept_percent": _percentages(retained.total),
        "onnx_initializers": require_nm_weights(onnx, retained),
        "predicted": predicted,
        "measured": measured_speedup(state, comparisons),
        "layers": [
            {
                "name": layer.tensor.removesuffix(".weight"),
                "shape": list(layer.shape),
                "reason": layer.reason,
                "kept": None if shares is None else _percentages(shares),
            }
            for layer, shares in retained.layers
        ],
    }


def _percentages(shares: RetainedShares) -> KeptShares:
    return {"first": 100 * shares.before, "now": 100 * shares.after, "bound": 100 * shares.upper_bound}


def require_nm_weights(onnx: Path, retained: RetainedMagnitude) -> int:
    """Return how many weights of an ONNX file keep the pattern.

    Args:
        onnx: A file that was checked.
        retained: The masked layers of the module it was exported from.

    Raises:
        VerificationFailed: A masked weight does not keep it.
    """
    from compressor.sparsity.onnx_check import find_nm_weights
    from compressor.sparsity.runtimes import RUNTIMES

    sparsity = retained.sparsity
    shapes = [layer.shape for layer, shares in retained.layers if shares]
    held, missing = find_nm_weights(onnx, RUNTIMES[sparsity.runtime], sparsity.pattern, shapes)
    if missing:
        problem = f"{len(missing)} masked weights are not {sparsity.pattern} in it, the first of shape {missing[0]}"
        hint = "report this with the model's name"
        raise VerificationFailed("sparsity/zeros-missing-in-onnx", onnx.name, problem, hint)
    return held


def predicted_speedup(state: PruningState, provider: str | None) -> str | None:
    """Say what a runtime gains from N:M zeros.

    Args:
        state: A state with the masks, or without.
        provider: What latency is measured with; None where it is not measured.

    Returns:
        A sentence; None for a model without N:M masks.
    """
    from compressor.graph.cost import macs_by_weight
    from compressor.models.inputs.example_inputs import example_inputs
    from compressor.sparsity.runtime_speedup import runtime_verdict

    if state.sparse is None:
        return None
    macs = macs_by_weight(state.model.module, *example_inputs(state.model))
    sparsity, layers = state.sparse.sparsity, [layer for layer, _ in state.sparse.layers]
    row = None if provider is None else _runtime_row(provider, sparsity.runtime)
    return runtime_verdict(sparsity, row, layers, macs)


def _runtime_row(provider: str, planned: str) -> str:
    """The row of `RUNTIMES` for a provider. The recipe knows which generation of devices TensorRT runs on."""
    from compressor.sparsity.runtimes import RUNTIMES

    name = provider.removesuffix("ExecutionProvider").lower()
    if name == "tensorrt":
        return planned if planned.startswith("tensorrt") else "tensorrt-ampere"
    row = f"onnxruntime-{name}"
    return row if row in RUNTIMES else "onnxruntime-other"


def measured_speedup(state: PruningState, comparisons: Sequence[Comparison]) -> str | None:
    """Say what was measured, and whether zeros or removed channels account for it.

    Args:
        state: The state after the last step.
        comparisons: Latency against the dense model's.

    Returns:
        A sentence; None where nothing was measured.
    """
    if not comparisons:
        return None
    first = comparisons[0]
    result = f"{first.verdict.words} on {first.target}, {first.runtime} {first.provider}"
    if not first.stable or first.ratio_ci95 is None:
        return result
    if first.verdict.kind != "faster":
        return f"{result}: no speed-up"
    return result if state.removed is None else f"{result}: due to the removed channels, not to the zeros"


def describe_sparsity(record: SparsityRecord) -> str:
    """'2:4 in 19 of 22 layers; the masks keep 76.4 % of the sum of |w|, ...'."""
    pattern, kept = ":".join(map(str, record["pattern"])), record["kept_percent"]
    before = f" ({kept['first']:.1f} % before the channels were reordered)" if kept["first"] != kept["now"] else ""
    share = f"{100 * kept['now'] / kept['bound']:.1f} % of the upper bound for any pattern with as many zeros"
    return (
        f"{pattern} in {record['eligible']} of {len(record['layers'])} layers; the masks keep {kept['now']:.1f} % of "
        f"the sum of |w|{before}, {share}; {record['onnx_initializers']} weights of model.onnx keep the pattern"
    )
