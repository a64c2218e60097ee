"""The whole comparison at each of the recipe's batch sizes, for programs that read report.json."""

from __future__ import annotations

from collections.abc import Mapping

from compressor.report.bench_result import bench_record
from compressor.report.findings.base import Finding
from compressor.report.run_result import RunResult


class LatencyByBatch(Finding):
    """What `compress bench dense.onnx model.onnx` prints, once for each batch size."""

    order = 100

    def record(self, run: RunResult) -> Mapping[str, object]:
        return {"batches": [bench_record(comparison, ("dense.onnx", "model.onnx")) for comparison in run.comparisons]}
