"""`compress inspect FILE.onnx`: shows what can be pruned in an ONNX file, and which of its weights are sparse."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from compressor.commands.inspect import inspect_model
from compressor.core import EventSink, NMPattern
from compressor.errors import ModelError
from compressor.export.onnx_file import validate_onnx
from compressor.report.inspect_result import OnnxInspect, OnnxWeights, onnx_weights_record
from compressor.sparsity.onnx_check import inspect_initializers
from compressor.sparsity.runtimes import RUNTIMES


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
