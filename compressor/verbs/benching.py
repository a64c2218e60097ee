"""Latency of ONNX files, whoever made them. Loads no torch: a bench begins at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from compressor.core import Emit
from compressor.deploy.latency import compare
from compressor.deploy.sustained import sustained
from compressor.deploy.target import Target
from compressor.report.record_latency import bench as bench_record
from compressor.report.schema_latency import Bench


def bench(
    a: Path,
    b: Path | None,
    *,
    target: Target,
    batch: int,
    seconds: float,
    layers: bool,
    sustain: float | None,
    emit: Emit,
) -> Bench:
    """Measured latency of one ONNX file, or of two in turn."""
    with target.opened() as device:
        found = compare(device, a, b, batch=batch, seconds=seconds, layers=layers, emit=emit)
        if sustain is not None:
            found = replace(found, sustained=sustained(device, b or a, batch=batch, seconds=sustain))
    return bench_record(found, [each.name for each in (a, b) if each is not None])
