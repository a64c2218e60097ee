"""The size of the PyTorch weights on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypedDict

from compressor.report.blocks import Block, Fact, Row
from compressor.report.findings.base import Finding, Report
from compressor.report.format import format_bytes, format_quotient
from compressor.report.run_result import RunResult

if TYPE_CHECKING:
    from torch import nn

CONVENTION = "A sparse file would store 4 bytes for every nonzero weight, and a mask of one bit for every weight."
FLOAT_BYTES = 4


class DiskRecord(TypedDict):
    """Bytes of the weights: all tensors of the dense model, the file slim.safetensors, and an estimate of that file
    without its zeros, which is None where it would be no smaller."""

    dense: int
    slim: int
    sparse: int | None
    convention: str


class WeightsOnDisk(Finding):
    """Bytes of the weights, dense and slim, and without zeros."""

    order = 50
    detail = True

    def record(self, run: RunResult) -> Mapping[str, object]:
        dense, slim = (tensor_bytes(state.model.module) for state in (run.baseline, run.state))
        return {"disk": disk_record(dense, slim, run.weights_bytes, run.slim_cost.weights, run.zero_weights)}

    def terminal(self, report: Report) -> Iterable[Block]:
        disk: DiskRecord = report["disk"]
        yield Fact("On disk", f"weights {format_bytes(disk['dense'])} -> {format_bytes(disk['slim'])}")
        if disk["sparse"] is not None:
            size = f"A file without the zeros would have about {format_bytes(disk['sparse'])}"
            yield Fact("", f"{size}; no runtime reads such a file.")

    def page(self, report: Report) -> Iterable[Block]:
        disk: DiskRecord = report["disk"]
        change = format_quotient(disk["dense"], disk["slim"])
        yield Row("PyTorch weights", format_bytes(disk["dense"]), format_bytes(disk["slim"]), change)
        yield from self.terminal(report)


def disk_record(dense_bytes: int, slim_bytes: int, file_bytes: int, weights: int, zeros: int) -> DiskRecord:
    """Return the sizes of the weights.

    Args:
        dense_bytes: Bytes of all tensors of the dense model.
        slim_bytes: Bytes of all tensors of the slim model.
        file_bytes: Size of slim.safetensors.
        weights: Number of the slim model's weights.
        zeros: How many of them are zero.

    Returns:
        The JSON under `disk`.
    """
    packed = slim_bytes - FLOAT_BYTES * zeros + weights // 8
    return {
        "dense": dense_bytes,
        "slim": file_bytes,
        "sparse": packed if zeros and packed < file_bytes else None,
        "convention": CONVENTION,
    }


def tensor_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers; a tensor with several names counts once."""
    tensors = {id(tensor): tensor.nbytes for tensor in module.state_dict(keep_vars=True).values()}
    return sum(tensors.values())
