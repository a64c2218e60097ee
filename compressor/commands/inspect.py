"""`compress inspect`: shows what can be pruned in a model, and which weights of an ONNX file are sparse."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from compressor.core import EventSink, NMPattern
from compressor.errors import ModelError
from compressor.export.onnx_file import validate_onnx
from compressor.graph.cost import count_cost
from compressor.graph.residual_blocks import residual_blocks
from compressor.models.example_inputs import example_inputs
from compressor.models.source import load_model
from compressor.report.findings.prunable_groups import coverage_record
from compressor.report.findings.run_identity import input_shapes
from compressor.report.inspect_result import Inspect, OnnxInspect, OnnxWeights, onnx_weights_record
from compressor.sparsity.onnx_check import inspect_initializers
from compressor.sparsity.runtimes import RUNTIMES
from compressor.surgery.analysis import analyze


def inspect_model(source: str, *, trust_pickle: bool, emit: EventSink) -> Inspect:
    """Analyze a model: its size, its groups of channels, and why some of them are frozen.

    Args:
        source: The model, as `load_model` takes it.
        trust_pickle: Whether code in a pickled model may run.
        emit: Receives the events.

    Returns:
        The record that is printed.

    Raises:
        ModelError: The model is not understood.
        UntrustedFile: The file would run code, and is not trusted.
    """
    emit("stage", {"name": "load"})
    model = load_model(source, trust_pickle=trust_pickle)
    emit("stage", {"name": "analyse"})
    inputs = example_inputs(model)
    structure = analyze(model.module, *inputs, name=model.name)
    cost = count_cost(model.module, *inputs)
    return {
        "model": model.name,
        "source": source,
        "architecture": model.spec.source,
        "notes": list(model.notes),
        "params": cost.params,
        "macs": cost.macs,
        "input": input_shapes(model.spec.inputs),
        "num_classes": model.spec.num_classes,
        "groups": [
            {"name": group.name, "channels": group.size, "layers": len(group.writers()), "frozen": group.frozen}
            for group in structure.groups
        ],
        "coverage": coverage_record(structure.groups, structure.cost),
        "blocks": [block.name for block in residual_blocks(model.module, *inputs)],
    }


def inspect_onnx_model(path: Path, *, emit: EventSink) -> OnnxInspect:
    """Analyze an ONNX file as a model, and its weights as `inspect_onnx` does.

    Args:
        path: The file.
        emit: Receives the events.

    Returns:
        Both records in one; `not_prunable` instead of the first where the file cannot be imported.

    Raises:
        ModelError: The file is no ONNX model, or contradicts itself.
        VerificationFailed: A weight is not finite.
    """
    weights = inspect_onnx(path)
    try:
        model = dict(inspect_model(str(path), trust_pickle=False, emit=emit))
        reason = None
    except ModelError as error:
        model, reason = {}, str(error)
    return cast(OnnxInspect, model | dict(weights) | {"not_prunable": reason})


def inspect_onnx(path: Path) -> OnnxWeights:
    """Return which weights of an ONNX file are 2:4 sparse, and which of them a runtime can use.

    Raises:
        ModelError: The file is no ONNX model, or contradicts itself.
    """
    pattern, runtime = NMPattern(2, 4), "tensorrt-ampere"
    validate_onnx(path)
    try:
        weights = inspect_initializers(path, RUNTIMES[runtime], pattern)
    except (ValueError, TypeError, LookupError, RecursionError) as error:  # it can be parsed, and contradicts itself
        hint = "export it again, or check the download"
        raise ModelError("onnx-model/not-onnx", str(path), f"it is not an ONNX model ({error})", hint) from error
    return onnx_weights_record(path, pattern, runtime, weights)
