"""Times single layers on a device: small ONNX files, a few processes, and a cache.

A layer is timed between two operators, as in a network (see `layer_model`). The time of these operators is measured
without the layer and subtracted. Every process also times a reference layer, and the cache keeps multiples of its time:
the speed of a machine changes from hour to hour, so that milliseconds of different hours cannot be compared.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from onnx import ModelProto

from compressor.bench.device.protocol import Clock, Job, Timing
from compressor.bench.device.session import RunnerSession
from compressor.bench.measurement_cache import add_to_cache, cache_file, read_cache
from compressor.bench.synthetic_models import IMAGE_CHANNELS, LayerBenchmark, layer_model
from compressor.core import EventSink, Layer

BATCH = 48  # files of a process: few enough to stay in the CPU's caches, enough to spread the cost of its start
WARM_SECONDS, WINDOW_SECONDS, WINDOWS = 0.004, 0.004, 5
MIN_SHARE = 0.1  # of a file's time that is attributed to the layer, whatever its neighbours take
REFERENCE = Layer("conv2d", 64, 64, (16, 16), kernel=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1))
KEY_PREFIX = "multiple of the reference: "


def measure_layers(
    session: RunnerSession, layers: Sequence[Layer], *, batch: int, clock: Clock, emit: EventSink
) -> Mapping[Layer, float]:
    """Time layers on a device. Equal layers are timed once, and those in the cache are not timed again.

    Args:
        session: The device.
        layers: The layers.
        batch: Batch size.
        clock: What the runs are timed by.
        emit: Receives the progress.

    Returns:
        Time of each layer for a batch, as a multiple of the time of `reference_model`.

    Raises:
        CompressorError: As `RunnerSession.run`.
    """
    terms = {layer: _terms(layer, batch) for layer in dict.fromkeys(layers)}
    path = cache_file(session.fingerprint)
    times = read_cache(path)
    benchmarks = dict.fromkeys(benchmark for layer_terms in terms.values() for benchmark, _ in layer_terms)
    missing = [benchmark for benchmark in benchmarks if _key(benchmark) not in times]
    for start in range(0, len(missing), BATCH):
        part = missing[start : start + BATCH]
        job = Job((), WINDOW_SECONDS, WINDOWS, WARM_SECONDS, batch)
        models = [reference_model(batch), *(layer_model(benchmark) for benchmark in part)]
        timings = time_models(session, models, job)
        unit, *typical = [typical_ms(timing.windows(clock)) for timing in timings]
        times |= {_key(benchmark): ms / unit for benchmark, ms in zip(part, typical, strict=True)}
        emit("progress", {"stage": "time layers", "done": start + len(part), "total": len(missing)})
    if missing:
        add_to_cache(path, times)
    return {
        layer: max(
            sum(factor * times[_key(benchmark)] for benchmark, factor in layer_terms),
            MIN_SHARE * times[_key(layer_terms[0][0])],
        )
        for layer, layer_terms in terms.items()
    }


def reference_model(batch: int) -> ModelProto:
    """The model whose time is the unit of layers' times: a 3x3 convolution between its two neighbours.

    Args:
        batch: Batch size.

    Returns:
        The model.
    """
    return layer_model(LayerBenchmark(REFERENCE.in_channels, REFERENCE.spatial_shape, batch, REFERENCE))


def time_models(session: RunnerSession, models: Sequence[ModelProto], job: Job) -> tuple[Timing, ...]:
    """Time models that exist only in memory, in one process.

    Args:
        session: The device.
        models: The models.
        job: How they are timed; its own models are ignored.

    Returns:
        One record for each model.

    Raises:
        CompressorError: As `RunnerSession.run`.
    """
    with tempfile.TemporaryDirectory(prefix="compress-models-") as folder:
        paths = tuple(Path(folder) / f"{index}.onnx" for index in range(len(models)))
        for path, model in zip(paths, models, strict=True):
            onnx.save(model, path)
        return session.run(replace(job, models=paths))


def typical_ms(windows: Sequence[Sequence[float]]) -> float:
    """Lower quartile of the windows' medians, because other processes can only make a window slower."""
    return float(np.quantile([median(window) for window in windows], 0.25))


def _key(benchmark: LayerBenchmark) -> str:
    """The name of its time in the cache."""
    return KEY_PREFIX + json.dumps(asdict(benchmark), sort_keys=True)


def _terms(layer: Layer, batch: int) -> list[tuple[LayerBenchmark, float]]:
    """Models and factors; the layer's time is the sum of factor * time. The first model contains the layer."""
    with_layer = LayerBenchmark(layer.in_channels, layer.spatial_shape, batch, layer)
    if layer.op == "linear":
        return [(with_layer, 1.0)]
    after = (LayerBenchmark(layer.out_channels, _output_size(layer), batch), -0.5)
    if layer.in_channels <= IMAGE_CHANNELS:
        return [(with_layer, 1.0), after]
    return [(with_layer, 1.0), (LayerBenchmark(layer.in_channels, layer.spatial_shape, batch), -0.5), after]


def _output_size(layer: Layer) -> tuple[int, ...]:
    """Spatial size of a convolution's output."""
    extents = [dilation * (kernel - 1) for kernel, dilation in zip(layer.kernel, layer.dilation, strict=True)]
    dims = zip(layer.spatial_shape, extents, layer.stride, layer.padding, strict=True)
    if "transpose" in layer.op:
        return tuple((size - 1) * stride - 2 * padding + extent + 1 for size, extent, stride, padding in dims)
    return tuple((size + 2 * padding - extent - 1) // stride + 1 for size, extent, stride, padding in dims)
