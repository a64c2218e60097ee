"""What to know before the slim model is used, and notes on how it was made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from compressor.core import RETRAINING
from compressor.report.blocks import Block, Notice
from compressor.report.findings.base import Finding, Report, finite
from compressor.report.run_result import RunResult

RETRAINED = f"after {RETRAINING}"
"""The stage that exists where the model was retrained."""

NOT_RETRAINED = "not retrained: expect the slim model to be less accurate than the dense one until it is retrained"
NO_DATA = "accuracy not measured: no data was given; add --data to measure it"
NO_LABELS = "accuracy not measured: the samples have no labels; the agreement with the dense model is measured instead"


class RunWarnings(Finding):
    """Warnings and notes of the run; a model that was not recovered or not measured is a warning by itself."""

    order = 250

    def record(self, run: RunResult) -> Mapping[str, object]:
        quality, agreement = run.state.quality, run.state.agreement
        retrained = RETRAINED in {*quality, *agreement}
        recovered = retrained or run.state.reconstruction is not None
        is_measured = any(stage != "dense" and finite(value) is not None for stage, value in quality.items())
        unmeasured = [] if is_measured else [NO_LABELS if agreement else NO_DATA]
        warnings = [*([] if recovered else [NOT_RETRAINED]), *unmeasured, *run.warnings]
        export_notes = dict.fromkeys((*run.dense_onnx.notes, *run.slim_onnx.notes))
        return {"retrained": retrained, "warnings": warnings, "notes": [*run.notes, *export_notes]}

    def terminal(self, report: Report) -> Iterable[Block]:
        for warning in report["warnings"]:
            yield Notice(warning)
