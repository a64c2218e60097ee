"""The quantized model: its size, its metric, and the zeros that survived."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypedDict

from compressor.core import QuantizedModel
from compressor.report.blocks import Block, Fact
from compressor.report.findings.base import Finding, Report
from compressor.report.findings.nm_zeros import require_nm_weights
from compressor.report.findings.task_metric import format_metric
from compressor.report.format import format_bytes
from compressor.report.run_result import RunResult

if TYPE_CHECKING:
    from compressor.sparsity.retained_magnitude import RetainedMagnitude


class QuantizedRecord(TypedDict):
    """model.int8.onnx. `quality`: the task's metric on the test set; `sparse`: weights that keep the N:M pattern, None
    without N:M masks."""

    onnx_bytes: int
    quality: float
    sparse: int | None


class Int8Model(Finding):
    """Reported where the recipe exports an int8 model."""

    order = 200

    def record(self, run: RunResult) -> Mapping[str, object]:
        return {"int8": quantized_record(run.int8_onnx, run.state.sparse)}

    def terminal(self, report: Report) -> Iterable[Block]:
        record: QuantizedRecord | None = report["int8"]
        if record is not None:
            quality = format_metric(record["quality"], report["metric"])
            sparse = "" if record["sparse"] is None else f"; {record['sparse']} weights keep the pattern"
            yield Fact("Int8", f"model.int8.onnx, {format_bytes(record['onnx_bytes'])}, {quality}{sparse}")


def quantized_record(int8: QuantizedModel | None, retained: RetainedMagnitude | None) -> QuantizedRecord | None:
    """Return what quantization came to.

    Args:
        int8: The quantized model.
        retained: The layers with N:M masks; None without.

    Returns:
        The JSON under `int8`; None where the recipe exports none.

    Raises:
        VerificationFailed: A masked weight lost its zeros.
    """
    if int8 is None:
        return None
    sparse = None if retained is None else require_nm_weights(int8.path, retained)
    return {"onnx_bytes": int8.bytes, "quality": int8.quality, "sparse": sparse}
