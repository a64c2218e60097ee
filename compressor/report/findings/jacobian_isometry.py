"""How well the model preserves lengths on the way to its outputs, after each stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypedDict

from compressor.report.blocks import Block, Fact
from compressor.report.findings.base import Finding, Report
from compressor.report.format import format_number, format_significant
from compressor.report.run_result import RunResult


class IsometryRecord(TypedDict):
    """Mean singular value of d logits / d input over so many training images. `error`: half of its 95 % interval as an
    estimate for these images, 0 where it was computed exactly."""

    mean: float
    error: float
    images: int


class MeanSingularValue(Finding):
    """The mean singular value of the Jacobian by stage; 1 preserves lengths."""

    order = 140
    detail = True

    def record(self, run: RunResult) -> Mapping[str, object]:
        stages = {
            stage: IsometryRecord(mean=isometry.mean, error=isometry.error, images=isometry.images)
            for stage, isometry in run.state.isometry.items()
        }
        return {"isometry": stages}

    def terminal(self, report: Report) -> Iterable[Block]:
        stages: Mapping[str, IsometryRecord] = report["isometry"]
        if not stages:
            return
        values = " -> ".join(f"{stage.removeprefix('after ')} {_value(value)}" for stage, value in stages.items())
        images = format_number(max(value["images"] for value in stages.values()), "image")
        yield Fact("Isometry", f"{values} (mean singular value of the Jacobian, {images})")


def _value(isometry: IsometryRecord) -> str:
    error = f" ± {format_significant(isometry['error'])}" if isometry["error"] else ""
    return f"{format_significant(isometry['mean'])}{error}"
