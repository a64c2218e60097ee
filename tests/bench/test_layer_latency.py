"""Files that time single layers, what is taken off their times, and the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from compressor.bench.device.protocol import Job, Timing
from compressor.bench.layer_latency import MIN_SHARE, measure_layers, reference_model
from compressor.bench.measurement_cache import add_to_cache, cache_file, read_cache
from compressor.bench.synthetic_models import LayerBenchmark, layer_model
from compressor.core import Layer

SQUARE = {"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
LAYERS = {
    "dense": Layer("conv2d", 8, 12, (6, 6), **SQUARE),
    "strided": Layer("conv2d", 8, 12, (7, 6), kernel=(3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 1)),
    "depthwise": Layer("conv2d", 8, 8, (6, 6), groups=8, **SQUARE),
    "grouped": Layer("conv2d", 8, 12, (6, 6), groups=4, **SQUARE),
    "of an image": Layer("conv2d", 3, 8, (6, 6), **SQUARE),
    "transposed": Layer("conv_transpose2d", 8, 6, (5, 5), 1, (2, 2), (2, 2), (0, 0), (1, 1)),
    "one-dimensional": Layer("conv1d", 8, 6, (9,), kernel=(3,), stride=(1,), padding=(1,), dilation=(2,)),
    "linear": Layer("linear", 10, 7, (4,)),
}


class Timed:
    """Every file takes the milliseconds that `of` says; remembers what it was asked."""

    runtime, fingerprint = "invented", "f"

    def __init__(self, of: Callable[[onnx.ModelProto], float]) -> None:
        self.of, self.jobs = of, list[Job]()

    def run(self, job: Job) -> tuple[Timing, ...]:
        self.jobs.append(job)
        times = [self.of(onnx.load(path)) for path in job.models]
        windows = [((ms,) * 5,) * job.windows for ms in times]
        return tuple(Timing(each, each, session_ms=1.0, first_run_ms=1.0, warm=True) for each in windows)


REFERENCE_MS = 4.0


def besides_the_reference(of: Callable[[onnx.ModelProto], float]) -> Callable[[onnx.ModelProto], float]:
    """The reference takes 4 ms, every other file what `of` says."""
    return lambda model: REFERENCE_MS if model in (reference_model(1), reference_model(2)) else of(model)


def silent(_event: str, _fields: object) -> None: ...


def layers_in(model: onnx.ModelProto) -> float:
    """10 ms for a layer, 2 for what comes before it, 1 for what comes after."""
    named = {output for node in model.graph.node for output in node.output}
    pooled = any(node.op_type == "GlobalAveragePool" for node in model.graph.node)
    return 10.0 * ("layer" in named or not pooled) + 2.0 * ("before" in named) + 1.0 * pooled


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_files_run_and_compute_the_layer(name: str, batch: int) -> None:
    layer = LAYERS[name]
    model = layer_model(LayerBenchmark(layer.in_channels, layer.spatial_shape, batch, layer))
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    assert shape[0] == batch
    (out,) = session.run(None, {session.get_inputs()[0].name: np.ones(shape, np.float32)})
    assert np.isfinite(out).all()
    weights = {each.name: each for each in model.graph.initializer}
    if layer.op == "linear":
        assert out.shape == (batch * 4, 7)
        return
    assert out.shape == (batch, layer.out_channels, *(1,) * len(layer.spatial_shape))
    kinds = {"conv1d": torch.nn.Conv1d, "conv2d": torch.nn.Conv2d, "conv_transpose2d": torch.nn.ConvTranspose2d}
    made = kinds[layer.op](
        layer.in_channels, layer.out_channels, layer.kernel, stride=layer.stride, padding=layer.padding,
        dilation=layer.dilation, groups=layer.groups,
    )  # fmt: skip
    assert tuple(made.weight.shape) == tuple(weights["layer.weight"].dims)


@pytest.mark.parametrize(("name", "ms"), [("dense", 10.0), ("linear", 10.0), ("of an image", 11.0 - 1.5)])
def test_what_stands_around_a_layer_is_taken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, ms: float
) -> None:
    """Half of (before + after) at the layer's inputs, and half at its outputs; an image comes as it is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    device = Timed(besides_the_reference(layers_in))
    found = measure_layers(device, [LAYERS[name]], batch=1, clock="cpu", emit=silent)  # type: ignore[arg-type]
    assert found == {LAYERS[name]: pytest.approx(ms / REFERENCE_MS)}


def test_a_layer_lost_in_its_surroundings_keeps_a_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    device = Timed(besides_the_reference(lambda _model: 5.0))
    found = measure_layers(device, [LAYERS["dense"]], batch=1, clock="cpu", emit=silent)  # type: ignore[arg-type]
    assert found[LAYERS["dense"]] == pytest.approx(MIN_SHARE * 5.0 / REFERENCE_MS)


def test_each_shape_is_timed_once_and_once_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    device = Timed(layers_in)
    layer = LAYERS["dense"]
    first = measure_layers(device, [layer] * 20, batch=1, clock="cpu", emit=silent)  # type: ignore[arg-type]
    assert [len(job.models) for job in device.jobs] == [4]
    again = measure_layers(device, [layer], batch=1, clock="cpu", emit=silent)  # type: ignore[arg-type]
    assert again == first
    assert len(device.jobs) == 1
    measure_layers(device, [layer], batch=2, clock="cpu", emit=silent)  # type: ignore[arg-type]
    assert len(device.jobs) == 2, "another batch is another time"
    assert cache_file("another") != cache_file("f")


def test_times_of_a_slow_and_of_a_fast_hour_can_be_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer is timed and kept; the other is timed when every file takes three times as long."""
    first, second = LAYERS["dense"], LAYERS["strided"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fast, slow = Timed(layers_in), Timed(lambda model: 3 * layers_in(model))
    measure_layers(fast, [first], batch=1, clock="cpu", emit=silent)  # type: ignore[arg-type]
    found = measure_layers(slow, [first, second], batch=1, clock="cpu", emit=silent)  # type: ignore[arg-type]
    assert [len(job.models) for job in slow.jobs] == [4], "the first one is not timed again"
    assert found[first] == pytest.approx(found[second]) == pytest.approx(10 / 13)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": "x"}', '{"a": -1}', '{"a": NaN}', "null"])
def test_a_spoilt_cache_counts_as_none(tmp_path: Path, text: str) -> None:
    spoilt = tmp_path / "layers.json"
    spoilt.write_text(text)
    assert read_cache(spoilt) == {}


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    add_to_cache(in_the_way / "layers.json", {"a": 1.0})
    assert in_the_way.read_text() == ""
