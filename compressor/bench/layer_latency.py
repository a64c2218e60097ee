"""Times single layers on a device: small ONNX files, a few processes, and a cache for what was timed before.

A layer stands in its file as it does in a model: between operators that keep the runtime's own memory layout, so that
no conversion of layouts is timed with it. What those operators take is timed apart and taken off.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compressor.atomic_write import write_text
from compressor.bench.device.protocol import Job, Timing
from compressor.bench.device.session import Device
from compressor.core import EventSink, Layer

BATCH = 48  # files a process: few enough to be gone from no cache, many enough to spread its start
WARM_SECONDS, WINDOW_SECONDS, WINDOWS = 0.004, 0.004, 5
LEAST = 0.1  # share of a file's time that is the layer's at the least, whatever the rest came to
RAW = 4  # channels up to which an input is the model's own, an image, and comes in no layout but the plain one


@dataclass(frozen=True, slots=True)
class LayerBenchmark:
    """A file to be timed: a layer between its neighbours, or, without one, the neighbours alone."""

    channels: int
    places: tuple[int, ...]
    batch: int
    layer: Layer | None = None

    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def measure_layers(
    device: Device, layers: Sequence[Layer], *, batch: int, single: bool, emit: EventSink
) -> Mapping[Layer, float]:
    """Milliseconds of each layer for a batch, alone on the device; each different layer is timed once, and once ever.

    `single`: the device runs models in one thread.

    Raises what `Device.run` raises.
    """
    probes = {layer: _probes(layer, batch) for layer in dict.fromkeys(layers)}
    wanted = dict.fromkeys(probe for pair in probes.values() for probe, _ in pair)
    path = latency_cache_file(device.fingerprint)
    known = read_latency_cache(path)
    missing = [probe for probe in wanted if probe.key() not in known]
    for start in range(0, len(missing), BATCH):
        some = missing[start : start + BATCH]
        known |= {probe.key(): time for probe, time in zip(some, _timed(device, some, batch, single), strict=True)}
        emit("progress", {"stage": "time layers", "done": start + len(some), "total": len(missing)})
    if missing:
        write_latency_cache(path, known)
    return {
        layer: max(
            sum(share * known[probe.key()] for probe, share in pair),
            LEAST * known[pair[0][0].key()],
        )
        for layer, pair in probes.items()
    }


def _probes(layer: Layer, batch: int) -> list[tuple[LayerBenchmark, float]]:
    """Files whose times, by these shares, add up to the layer's own."""
    if layer.op == "linear":
        return [(LayerBenchmark(layer.in_channels, layer.spatial_shape, batch, layer), 1.0)]
    after = LayerBenchmark(layer.out_channels, _after(layer), batch)
    with_layer = LayerBenchmark(layer.in_channels, layer.spatial_shape, batch, layer)
    if layer.in_channels <= RAW:
        return [(with_layer, 1.0), (after, -0.5)]
    return [(with_layer, 1.0), (LayerBenchmark(layer.in_channels, layer.spatial_shape, batch), -0.5), (after, -0.5)]


def _after(layer: Layer) -> tuple[int, ...]:
    """Height and width of a convolution's output."""
    reach = [spread * (kernel - 1) for kernel, spread in zip(layer.kernel, layer.dilation, strict=True)]
    sizes = zip(layer.spatial_shape, reach, layer.stride, layer.padding, strict=True)
    if "transpose" in layer.op:
        return tuple((size - 1) * step - 2 * pad + far + 1 for size, far, step, pad in sizes)
    return tuple((size + 2 * pad - far - 1) // step + 1 for size, far, step, pad in sizes)


def _timed(device: Device, probes: Sequence[LayerBenchmark], batch: int, single: bool) -> list[float]:
    with tempfile.TemporaryDirectory(prefix="compress-layers-") as folder:
        paths = tuple(Path(folder) / f"{number}.onnx" for number in range(len(probes)))
        for path, probe in zip(paths, probes, strict=True):
            onnx.save(probe_model(probe), path)
        job = Job(paths, WINDOW_SECONDS, WINDOWS, WARM_SECONDS, batch)
        return [typical_ms(timing, single=single) for timing in device.run(job)]


def typical_ms(timing: Timing, *, single: bool) -> float:
    """Lower quartile of the windows' medians, for a neighbour can only make a window slower.

    By CPU time for a single thread; of several, the calling thread's says nothing.
    """
    windows = timing.cpu if single else timing.wall
    return float(np.quantile([median(window) for window in windows], 0.25))


# ---------------------------------------------------------------- the files


def probe_model(probe: LayerBenchmark) -> ModelProto:
    """Input (batch, 1, *places) -> 1x1 convolution to `channels` -> the layer -> mean over places.

    A linear layer stands alone: (batch * rows, inputs) @ (inputs, outputs) + bias.
    """
    layer = probe.layer
    weights: list[TensorProto] = []
    if layer is not None and layer.op == "linear":
        nodes = _linear(layer, weights)
        shape, after = (
            [probe.batch, *layer.spatial_shape, layer.in_channels],
            [probe.batch * layer.spatial_shape[0], layer.out_channels],
        )
    else:
        raw = layer is not None and layer.in_channels <= RAW
        shape = [probe.batch, probe.channels if raw else 1, *probe.places]
        nodes, last = [], "input"
        if not raw:
            spatial = len(probe.places)
            nodes.append(_convolution("before", last, (probe.channels, 1, *(1,) * spatial), weights))
            last = "before"
        if layer is not None:
            nodes.append(_layer(layer, last, weights))
            last = "layer"
        nodes.append(helper.make_node("GlobalAveragePool", [last], ["output"]))
        after = [probe.batch, layer.out_channels if layer else probe.channels, *(1,) * len(probe.places)]
    ends = [
        helper.make_tensor_value_info("input", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("output", TensorProto.FLOAT, after),
    ]
    graph = helper.make_graph(nodes, "probe", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _linear(layer: Layer, weights: list[TensorProto]) -> list[NodeProto]:
    weights += [
        _tensor("weight", (layer.out_channels, layer.in_channels), layer.in_channels),
        _tensor("bias", (layer.out_channels,), 1),
    ]
    weights.append(numpy_helper.from_array(np.array([-1, layer.in_channels], np.int64), "rows"))
    return [
        helper.make_node("Reshape", ["input", "rows"], ["matrix"]),
        helper.make_node("Gemm", ["matrix", "weight", "bias"], ["output"], transB=1),
    ]


def _layer(layer: Layer, source: str, weights: list[TensorProto]) -> NodeProto:
    transposed = "transpose" in layer.op
    first, second = (layer.in_channels, layer.out_channels) if transposed else (layer.out_channels, layer.in_channels)
    return _convolution(
        "layer",
        source,
        (first, second // layer.groups, *layer.kernel),
        weights,
        transposed=transposed,
        group=layer.groups,
        strides=list(layer.stride),
        pads=[*layer.padding, *layer.padding],
        dilations=list(layer.dilation),
    )


def _convolution(
    name: str,
    source: str,
    shape: tuple[int, ...],
    weights: list[TensorProto],
    *,
    transposed: bool = False,
    **attributes: Any,
) -> NodeProto:
    weights.append(_tensor(f"{name}.weight", shape, math.prod(shape[1:])))
    return helper.make_node("ConvTranspose" if transposed else "Conv", [source, f"{name}.weight"], [name], **attributes)


def _tensor(name: str, shape: tuple[int, ...], fan_in: int) -> TensorProto:
    """Seeded normal values, scaled to keep activations near one: denormals and zeros have times of their own."""
    values = np.random.default_rng(0).standard_normal(shape, dtype=np.float32) / np.float32(math.sqrt(max(1, fan_in)))
    return numpy_helper.from_array(values, name)


# ---------------------------------------------------------------- the cache


def latency_cache_file(fingerprint: str) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "compress" / f"layers-{fingerprint}.json"


def read_latency_cache(path: Path) -> dict[str, float]:
    """Times that were measured before; whatever else the file holds counts as nothing."""
    try:
        found = json.loads(path.read_text())
        return {str(key): float(time) for key, time in found.items() if math.isfinite(time) and time > 0}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write_latency_cache(path: Path, known: Mapping[str, float]) -> None:
    """Keep the times; a cache that can't be written costs a measurement the next time, no more."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({**read_latency_cache(path), **known}))
