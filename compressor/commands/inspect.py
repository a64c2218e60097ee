"""`compress inspect`: what can be pruned in a model, and which weights of an ONNX file are sparse."""

from __future__ import annotations

from pathlib import Path

from compressor.core import EventSink, NMPattern
from compressor.graph.cost import count_cost
from compressor.graph.prunable_share import prunable_shares
from compressor.models.source import load_model
from compressor.output import nm_report as zeros
from compressor.report.record import model_sizes
from compressor.report.schema_verbs import Inspect, OnnxWeights
from compressor.report.widths import frozen_coverage
from compressor.steps.state import example_inputs
from compressor.surgery.analysis import analyze


def inspect_model(source: str, *, trust_pickle: bool, emit: EventSink) -> Inspect:
    """Analyze a model: its size, its groups of channels, and why some of them are frozen.

    Args:
        source: The model, as `load_model` takes it.
        trust_pickle: Whether code in a pickled model may run.
        emit: What gets the events.

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
        "input": model_sizes(model.spec.inputs),
        "num_classes": model.spec.num_classes,
        "groups": [
            {"name": group.name, "channels": group.size, "layers": len(group.writers()), "frozen": group.frozen}
            for group in structure.groups
        ],
        "coverage": frozen_coverage(structure.groups, prunable_shares(structure.groups, structure.cost)),
    }


def inspect_onnx(path: Path) -> OnnxWeights:
    """Return which weights of an ONNX file are 2:4 sparse, and which of them a runtime can use."""
    return zeros.onnx_weight_report(path, NMPattern(2, 4), "tensorrt-ampere")
