"""The largest learning rate that gradient descent tolerates where retraining starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypedDict

from compressor.report.blocks import Block, Fact
from compressor.report.findings.base import Finding, Report
from compressor.report.format import format_number, format_significant
from compressor.report.run_result import RunResult


class StableRateRecord(TypedDict):
    """The largest stable learning rate of gradient descent with the retraining's momentum, 2 (1 + momentum) /
    curvature, at its start on so many training images: a hint."""

    lr: float
    curvature: float
    images: int


class LargestStableRate(Finding):
    """A hint for the choice of the learning rate; None without a training, or with one too short for it."""

    order = 160
    detail = True

    def record(self, run: RunResult) -> Mapping[str, object]:
        rate = run.stable_lr
        if rate is None:
            return {"stable_rate": None}
        return {"stable_rate": StableRateRecord(lr=rate.lr, curvature=rate.curvature, images=rate.images)}

    def terminal(self, report: Report) -> Iterable[Block]:
        record: StableRateRecord | None = report["stable_rate"]
        if record is not None:
            curvature, images = format_significant(record["curvature"]), format_number(record["images"], "image")
            limit = f"a learning rate of about {format_significant(record['lr'])} = 2 (1 + momentum) / {curvature}"
            yield Fact(
                "Stable rate",
                f"Where retraining starts, gradient descent is stable up to {limit}, the curvature on {images}",
            )
