"""Latency of ONNX files, whoever made them. Loads no torch: a bench begins at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from compressor.bench.compare import compare_latency
from compressor.bench.device.target import DeviceTarget
from compressor.bench.sustained_load import measure_sustained
from compressor.core import EventSink
from compressor.report.bench_result import BenchResult, bench_record


def bench_files(
    a: Path,
    b: Path | None,
    *,
    target: DeviceTarget,
    batch: int,
    seconds: float,
    layers: bool,
    sustain: float | None,
    emit: EventSink,
) -> BenchResult:
    """Measured latency of one ONNX file, or of two in turn."""
    with target.opened() as device:
        found = compare_latency(device, a, b, batch=batch, seconds=seconds, layers=layers, emit=emit)
        if sustain is not None:
            found = replace(found, sustained=measure_sustained(device, b or a, batch=batch, seconds=sustain))
    return bench_record(found, [each.name for each in (a, b) if each is not None])
