"""Both models as ONNX files: their size, and how far their outputs are from PyTorch's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypedDict

from compressor.core import ExportedModel
from compressor.report.blocks import Block, Card, Fact, Notice, Row, Status
from compressor.report.findings.base import Finding, Report, finite
from compressor.report.format import format_bytes, format_error, format_quotient
from compressor.report.run_result import RunResult


class OnnxRecord(TypedDict):
    """model.onnx against the slim PyTorch module, and dense.onnx against the dense one. `compared`: 'answers', those
    with random numbers at their centres, or the layers before the first operator whose result depends on rounding."""

    opset: int
    max_abs_error: float | None
    dense_max_abs_error: float | None
    ok: bool
    compared: str


class OnnxParity(Finding):
    """Bytes and hashes of the files, and the parity check."""

    order = 70

    def record(self, run: RunResult) -> Mapping[str, object]:
        dense, slim = run.dense_onnx, run.slim_onnx
        parity = OnnxRecord(
            opset=slim.opset,
            max_abs_error=finite(slim.max_abs_error),
            dense_max_abs_error=finite(dense.max_abs_error),
            ok=slim.ok and dense.ok,
            compared=slim.compared,
        )
        return {"dense": _file(dense), "slim": _file(slim), "onnx": parity}

    def terminal(self, report: Report) -> Iterable[Block]:
        dense, slim = (report[model]["onnx_bytes"] for model in ("dense", "slim"))
        yield Row("ONNX file", format_bytes(dense), format_bytes(slim), format_quotient(dense, slim))
        parity: OnnxRecord = report["onnx"]
        where = "" if parity["compared"] == "answers" else f" in the {parity['compared']}"
        slim_error, dense_error = format_error(parity["max_abs_error"]), format_error(parity["dense_max_abs_error"])
        yield Fact(
            "ONNX",
            f"largest difference to PyTorch{where} {slim_error} (dense {dense_error}); opset {parity['opset']}",
            Status(parity["ok"], "agrees" if parity["ok"] else "disagrees"),
        )

    def page(self, report: Report) -> Iterable[Block]:
        ok, error = report["onnx"]["ok"], format_error(report["onnx"]["max_abs_error"])
        word = "agrees" if ok else "disagrees"
        yield Card("Can I trust it?", word, "ONNX with PyTorch", f"largest difference {error}", ok)
        yield from self.terminal(report)
        if not report["onnx"]["ok"]:
            yield Notice("The outputs of the ONNX file differ from those of the PyTorch model.", severe=True)


def _file(onnx: ExportedModel) -> dict[str, object]:
    return {"onnx_bytes": onnx.bytes, "onnx_sha256": onnx.sha256}
