"""What was compressed, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from compressor.core import ModelInput, ModelSpec
from compressor.report.findings.base import Finding
from compressor.report.run_result import RunResult

FORMAT = 1
"""The version of report.json's format."""


class ModelSpecRecord(TypedDict):
    """The architecture; `input` is the shape of the one input, or of each of several."""

    source: str
    input: list[int] | list[list[int]]
    num_classes: int | None


class RunIdentity(Finding):
    """The model, its architecture, the method and the steps. Both media show them as their heading."""

    order = 10

    def record(self, run: RunResult) -> Mapping[str, object]:
        return {
            "version": FORMAT,
            "model": run.baseline.model.name,
            "model_sha256": run.baseline.model.sha256,
            "architecture": architecture_record(run.state.model.spec),
            "method": run.recipe.prune.method,
            "steps": list(run.state.steps),
        }


def architecture_record(spec: ModelSpec) -> ModelSpecRecord:
    """The JSON of an architecture."""
    return {"source": spec.source, "input": input_shapes(spec.inputs), "num_classes": spec.num_classes}


def input_shapes(inputs: Sequence[ModelInput]) -> list[int] | list[list[int]]:
    """The shape of a model's one input, or of each of several, without the batch dimension."""
    shapes = [list(model_input.shape) for model_input in inputs]
    return shapes[0] if len(shapes) == 1 else shapes
