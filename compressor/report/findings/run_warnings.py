"""What to know before the slim model is used, and notes on how it was made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from compressor.report.blocks import Block, Notice
from compressor.report.findings.base import Finding, Report, finite
from compressor.report.run_result import RunResult

RETRAINED = "after retraining"
"""The stage that exists where the model was retrained."""

NOT_RETRAINED = "not retrained: expect the slim model to be less accurate than the dense one until it is retrained"
NOT_MEASURED = "accuracy not measured: no data was given; add --data to measure it"


class RunWarnings(Finding):
    """Warnings and notes of the run; a model that was not retrained or not measured is a warning by itself."""

    order = 250

    def record(self, run: RunResult) -> Mapping[str, object]:
        quality = run.state.quality
        retrained = RETRAINED in quality
        is_measured = any(stage != "dense" and finite(value) is not None for stage, value in quality.items())
        warnings = [*([] if retrained else [NOT_RETRAINED]), *([] if is_measured else [NOT_MEASURED]), *run.warnings]
        export_notes = dict.fromkeys((*run.dense_onnx.notes, *run.slim_onnx.notes))
        return {"retrained": retrained, "warnings": warnings, "notes": [*run.notes, *export_notes]}

    def terminal(self, report: Report) -> Iterable[Block]:
        for warning in report["warnings"]:
            yield Notice(warning)
