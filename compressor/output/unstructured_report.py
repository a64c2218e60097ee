"""Masks of single weights on their way out: how many weights are left where, and what files show of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from compressor.core import Comparison, Cost
from compressor.errors import VerificationFailed
from compressor.graph.cost import macs_by_weight
from compressor.models.example_inputs import example_inputs
from compressor.output.nm_report import int8_quality
from compressor.report.schema_sparsity import MaskedLayer, MasksRecord
from compressor.sparsity.masking import all_weights
from compressor.sparsity.onnx_check import constants
from compressor.steps.state import PruningState

EXPECTED = (
    "no dense runtime skips zeros in places of their own: expect no speed-up from them and no smaller file, unless a "
    "sparse format or a compressed archive stores it"
)


def remaining_weights(work: PruningState, counted: Cost) -> Cost:
    """What was counted, without the weights that masks hold at zero."""
    return Cost(counted.params, counted.macs, counted.weights - work.masked_weights, counted.nodes)


def unstructured_record(
    start: PruningState, work: PruningState, onnx: Path, comparisons: Sequence[Comparison]
) -> MasksRecord | None:
    """For the report; None where no single weights were masked. Raises VerificationFailed where the ONNX file does not
    show the zeros that the module holds."""
    if not work.masks or work.sparse is not None:
        return None
    layers = list(_layers(start, work))
    held, missing = unstructured_layers(onnx, [(each["shape"], each["left"]) for each in layers])
    if missing:
        problem = f"the zeros of {len(missing)} masked weights are not in it; the first has shape {missing[0]}"
        raise VerificationFailed(
            "sparsity/zeros-missing-in-onnx", onnx.name, problem, "report this with the model's name"
        )
    kept = sum(each["left"] for each in layers)
    return {
        "weights": work.baseline.cost.weights,
        "left": kept,
        "sparsity_percent": 100 * (1 - kept / work.baseline.cost.weights),
        "onnx_initializers": held,
        "expected": EXPECTED,
        "measured": int8_quality(work, comparisons),
        "layers": layers,
    }


def unstructured_layers(onnx: Path, weights: Iterable[tuple[Sequence[int], int]]) -> tuple[int, list[tuple[int, ...]]]:
    """How many initializers show the zeros of (shape, weights left), and the shapes of those that none shows.

    Exporters rename what they transpose, so weights are found again by what they are, not by name.
    """
    found: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for _, weight in constants(onnx).values():
        found[weight.shape].append(int((weight != 0).sum()))
    held, missing = 0, []
    for shape, most in sorted((tuple(shape), most) for shape, most in weights):
        fitting = [each for each in found[shape] if each <= most]
        if fitting:
            held += 1
            found[shape].remove(max(fitting))
        else:
            missing.append(shape)
    return held, missing


def _layers(start: PruningState, work: PruningState) -> Iterable[MaskedLayer]:
    """Every layer that runs, in the model's order."""
    now = all_weights(work.model.module)
    running = macs_by_weight(start.model.module, *example_inputs(start.model))
    for name, before in all_weights(start.model.module).items():
        if name in running:
            kept = int(work.masks[name].sum()) if name in work.masks else now[name].numel()
            yield {
                "name": name.removesuffix(".weight"),
                "shape": list(now[name].shape),
                "weights": before.numel(),
                "left": kept,
            }
