"""`compress inspect`: shows what can be pruned in a model."""

from __future__ import annotations

from compressor.core import EventSink, PrunePlan
from compressor.graph.residual_blocks import residual_blocks
from compressor.models.inputs.example_inputs import example_inputs
from compressor.models.source import load_model
from compressor.report.findings.prunable_groups import coverage_record
from compressor.report.findings.run_identity import input_shapes
from compressor.report.inspect_result import Inspect
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
    graph = analyze(model.module, *inputs, name=model.name)
    cost = graph.cost.of(PrunePlan({}))
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
            {
                "name": group.name,
                "channels": group.size,
                "layers": len(group.writers()),
                "frozen": group.frozen.reason if group.frozen else None,
            }
            for group in graph.groups
        ],
        "coverage": coverage_record(graph.groups, graph.cost),
        "blocks": [block.name for block in residual_blocks(model.module, *inputs)],
    }
