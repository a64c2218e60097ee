"""What a model is, what can be cut from it, what not and why; and which weights of an ONNX file are sparse."""

from __future__ import annotations

from pathlib import Path

from compressor.artefacts import zeros
from compressor.core import Emit, Pattern
from compressor.engine.work import example
from compressor.graph.analyse import analyse
from compressor.graph.cost import count
from compressor.graph.coverage import held
from compressor.models.source import load_model
from compressor.report.record import sizes
from compressor.report.schema_verbs import Inspect, OnnxWeights
from compressor.report.widths import coverage


def inspect(source: str, *, trust_pickle: bool, emit: Emit) -> Inspect:
    """What a model is, what can be cut from it, and what can't and why."""
    emit("stage", {"name": "load"})
    model = load_model(source, trust_pickle=trust_pickle)
    emit("stage", {"name": "analyse"})
    inputs = example(model)
    structure = analyse(model.module, *inputs, name=model.name)
    cost = count(model.module, *inputs)
    return {
        "model": model.name,
        "source": source,
        "architecture": model.spec.source,
        "notes": list(model.notes),
        "params": cost.params,
        "macs": cost.macs,
        "input": sizes(model.spec.inputs),
        "num_classes": model.spec.num_classes,
        "groups": [
            {"name": group.name, "channels": group.size, "layers": len(group.writers()), "frozen": group.frozen}
            for group in structure.groups
        ],
        "coverage": coverage(structure.groups, held(structure.groups, structure.cost)),
    }


def inspect_onnx(path: Path) -> OnnxWeights:
    """Which weights of any ONNX file keep the 2:4 rule, and which a runtime could use."""
    return zeros.inspect_onnx(path, Pattern(2, 4), "tensorrt-ampere")
