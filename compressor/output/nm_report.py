"""N:M sparsity on its way out: what a runtime will make of it, what was kept, and what files show of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

from compressor.core import Comparison, NMPattern, QuantizedModel
from compressor.errors import ModelError, VerificationFailed
from compressor.export.onnx_file import validate_onnx
from compressor.graph.cost import macs_by_weight
from compressor.models.example_inputs import example_inputs
from compressor.report.schema_sparsity import QuantisedRecord, SparseLayer, SparsityRecord
from compressor.report.schema_verbs import OnnxWeights
from compressor.sparsity.onnx_check import pattern_of_initializers
from compressor.sparsity.retained_magnitude import RetainedMagnitude, runtime_verdict
from compressor.sparsity.runtimes import RUNTIMES
from compressor.steps.state import PruningState


def predicted_sparsity(work: PruningState, provider: str | None) -> str | None:
    """What the zeros will bring, in words; None for a model without. `provider`: what measures, None for nothing."""
    if work.sparse is None:
        return None
    macs = macs_by_weight(work.model.module, *example_inputs(work.model))
    layers = [layer for layer, _ in work.sparse.layers]
    sparsity = work.sparse.sparsity
    return runtime_verdict(sparsity, None if provider is None else _row(provider, sparsity.runtime), layers, macs)


def _row(provider: str, planned: str) -> str:
    """Of the table of runtimes. Which generation of devices TensorRT meets is the recipe's to say."""
    short = provider.removesuffix("ExecutionProvider").lower()
    if short == "tensorrt":
        return planned if planned.startswith("tensorrt") else "tensorrt-ampere"
    return next((each for each in (f"onnxruntime-{short}",) if each in RUNTIMES), "onnxruntime-other")


def nm_record(work: PruningState, onnx: Path, comparisons: Sequence[Comparison]) -> SparsityRecord | None:
    """For the report. Raises VerificationFailed where the ONNX file does not show what the module holds."""
    words = predicted_sparsity(work, comparisons[0].provider if comparisons else None)
    if work.sparse is None or words is None:
        return None
    sparsity = work.sparse.sparsity
    layers = _layers(work.sparse)
    held = _all_shown(onnx, work.sparse)
    total = work.sparse.total
    weights = sum(mask.numel() for mask in work.masks.values())
    return {
        "pattern": list(sparsity.pattern),
        "runtime": sparsity.runtime,
        "eligible": len(work.masks),
        "zeros": work.masked_weights,
        "masked_weights": weights,
        "kept_percent": {"first": 100 * total.first, "now": 100 * total.now, "bound": 100 * total.bound},
        "onnx_initializers": held,
        "predicted": words,
        "measured": int8_quality(work, comparisons),
        "layers": layers,
    }


def write_packed(work: PruningState, names: Container[str]) -> dict[str, NMPattern]:
    """Which of the tensors of these names are stored as values and places."""
    if work.sparse is None or not work.sparse.sparsity.packed:
        return {}
    return {name: work.sparse.sparsity.pattern for name in work.masks if name in names}


def write_int8(work: PruningState, quantised: QuantizedModel | None) -> QuantisedRecord | None:
    """For the report. Raises VerificationFailed where quantisation lost zeros."""
    if quantised is None:
        return None
    sparse = None if work.sparse is None else _all_shown(quantised.path, work.sparse)
    return {"onnx_bytes": quantised.bytes, "quality": quantised.quality, "sparse": sparse}


def nm_layers(
    onnx: Path, runtime: str, pattern: NMPattern, shapes: Iterable[Sequence[int]]
) -> tuple[int, list[tuple[int, ...]]]:
    """How many initializers keep the rule, and of the masked weights' shapes those that no such initializer has.

    Exporters rename what they transpose, so weights are found again by what they are, not by name.
    """
    found = Counter(each.shape for each in pattern_of_initializers(onnx, RUNTIMES[runtime], pattern) if each.holds)
    missing = Counter(map(tuple, shapes)) - found
    return sum(found.values()), sorted(missing.elements())


def _all_shown(onnx: Path, sparse: RetainedMagnitude) -> int:
    """How many weights of a file keep the rule; all that are masked must."""
    sparsity, shapes = sparse.sparsity, [layer.shape for layer, shares in sparse.layers if shares]
    held, missing = nm_layers(onnx, sparsity.runtime, sparsity.pattern, shapes)
    if missing:
        problem = f"{len(missing)} masked weights are not {sparsity.pattern} in it; the first has shape {missing[0]}"
        raise VerificationFailed(
            "sparsity/zeros-missing-in-onnx", onnx.name, problem, "report this with the model's name"
        )
    return held


def onnx_weight_report(path: Path, pattern: NMPattern, runtime: str) -> OnnxWeights:
    """`compress inspect model.onnx`: the rule, weight by weight."""
    validate_onnx(path)
    try:
        found = pattern_of_initializers(path, RUNTIMES[runtime], pattern)
    except (ValueError, TypeError, LookupError, RecursionError) as error:  # parses, and contradicts itself
        raise ModelError(
            "onnx-model/not-onnx",
            str(path),
            f"it is not an ONNX model ({error})",
            "export it again, or check the download",
        ) from error
    eligible = [each for each in found if each.reason is None]
    return {
        "file": str(path),
        "pattern": list(pattern),
        "runtime": runtime,
        "eligible": len(eligible),
        "hold": sum(each.holds for each in eligible),
        "weights": [
            {
                "name": each.name,
                "operator": each.operator,
                "shape": list(each.shape),
                "zeros_percent": 100 * each.zeros,
                "holds": each.holds,
                "reason": each.reason,
            }
            for each in found
        ],
    }


def _layers(sparse: RetainedMagnitude) -> list[SparseLayer]:
    return [
        {
            "name": layer.tensor.removesuffix(".weight"),
            "shape": list(layer.shape),
            "reason": layer.reason,
            "kept": None
            if shares is None
            else {"first": 100 * shares.first, "now": 100 * shares.now, "bound": 100 * shares.bound},
        }
        for layer, shares in sparse.layers
    ]


def int8_quality(work: PruningState, comparisons: Sequence[Comparison]) -> str | None:
    """What was measured, and what of it comes from the zeros."""
    if not comparisons:
        return None
    first = comparisons[0]
    found = f"{first.verdict} on {first.target}, {first.runtime} {first.provider}"
    if not first.stable or first.ratio_ci95 is None:
        return found
    if first.ratio_ci95[0] <= 1:
        return f"{found}: no speed-up"
    return f"{found}: by the channels that went, not by the zeros" if work.removed is not None else found
