"""`compress bench`: measures the latency of ONNX files. It does not load torch, so that it starts at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from compressor.bench.compare import compare_latency, measure_sustained
from compressor.bench.device.device import Device
from compressor.core import EventSink
from compressor.report.bench_result import BenchResult, bench_record


def bench_files(
    a: Path,
    b: Path | None,
    *,
    device: Device,
    batch: int,
    seconds: float,
    layers: bool,
    sustain: float | None,
    emit: EventSink,
) -> BenchResult:
    """Measure one ONNX file, or two in interleaved runs.

    Args:
        a: The file.
        b: The file to compare it with.
        device: The device to measure on.
        batch: Batch size.
        seconds: Measuring time for each file.
        layers: Whether to profile every layer as well.
        sustain: Seconds without a pause afterwards, in which the last file runs; None means none.
        emit: Receives the events.

    Returns:
        The record that is printed.

    Raises:
        ModelError: A file is not a model that ONNX Runtime can run.
        DeviceUnavailable: The device cannot be reached, or failed.
    """
    with device.open() as session:
        comparison = compare_latency(session, a, b, batch=batch, seconds=seconds, layers=layers, emit=emit)
        if sustain is not None:
            comparison = replace(comparison, sustained=measure_sustained(session, b or a, batch=batch, seconds=sustain))
    return bench_record(comparison, [path.name for path in (a, b) if path is not None])
