"""On a CUDA device: what is trained, compared and masked there equals the CPU's. Run with `pytest -m gpu`.

The helpers take a device, so that everything but the card is exercised on the CPU as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import onnx
import onnxruntime
import pytest
import torch
from failures import raises_error
from lightning_fabric import Fabric
from onnx import TensorProto, helper
from torch import Tensor, nn
from toys import SGD, quiet, toy_data, toy_net

from compressor.bench.device.device import Device
from compressor.bench.device.protocol import Job
from compressor.core import NMPattern
from compressor.errors import DeviceUnavailable, Temporary
from compressor.sparsity.nm_masks import magnitude_mask
from compressor.steps.train import Train
from compressor.training.distributed.runtime import Runtime
from compressor.training.loop import TrainResult, train
from compressor.training.schedules import constant
from compressor.training.training_checkpoint import TrainingCheckpoint

CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")],
)
STEP = Train(epochs=2, batch_size=8, optimizer=SGD, schedule=constant(), precision="fp32")
Precision = Literal["fp32", "bf16", "fp16"]


def trained_on(device: str, module: nn.Module, precision: Precision = "fp32", **how: object) -> TrainResult:
    runtime = Runtime(Fabric(accelerator=device, devices=1))
    step = replace(STEP, precision=precision)
    return train(module, toy_data(), step, seed=2, runtime=runtime, **{"emit": quiet, **how})  # type: ignore[arg-type]


def weights_of(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("bf16", 5e-2), ("fp16", 5e-2)])
def test_training_equals_the_cpus(device: str, precision: Precision, tolerance: float) -> None:
    if device == "cpu" and precision == "fp16":
        pytest.skip("float16 is for accelerators")
    expected, module = toy_net(dropout=0.0), toy_net(dropout=0.0)
    before = weights_of(module)
    trained_on("cpu", expected)
    trained_on(device, module, precision)
    assert {parameter.device.type for parameter in module.parameters()} == {"cpu"}
    moved = (weights_of(expected) - before).norm()
    assert (weights_of(module) - weights_of(expected)).norm() <= tolerance * 10 * moved


@pytest.mark.parametrize(("first", "then"), [("cpu", "cpu"), pytest.param("cuda", "cpu", marks=CUDA.marks)])
def test_training_continues_on_another_kind_of_device(tmp_path: Path, first: str, then: str) -> None:
    class Interrupted(Exception):
        pass

    def stop(event: str, fields: Mapping[str, object]) -> None:
        if event == "epoch":
            raise Interrupted

    expected, module = toy_net(dropout=0.0), toy_net(dropout=0.0)
    trained_on("cpu", expected)
    with pytest.raises(Interrupted):
        trained_on(first, module, emit=stop, checkpoint=TrainingCheckpoint(tmp_path / "state", "a"))
    result = trained_on(then, module := toy_net(dropout=0.0), checkpoint=TrainingCheckpoint(tmp_path / "state", "a"))
    assert [record["epoch"] for record in result.records] == [1, 2]
    torch.testing.assert_close(weights_of(module), weights_of(expected), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_masks_are_the_same(device: str) -> None:
    weight = torch.randn(32, 64, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        magnitude_mask(weight.to(device), NMPattern(2, 4)).cpu(), magnitude_mask(weight, NMPattern(2, 4))
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_memory_that_runs_out_names_a_batch_size() -> None:
    class Hungry(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = toy_net()

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 2:
                torch.empty(1 << 50, device=x.device)
            logits: Tensor = self.net(x)
            return logits

    with raises_error(Temporary, "out-of-memory/training", "2"):
        trained_on("cuda", Hungry())


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_the_provider_that_is_named_executes_the_model(tmp_path: Path, device: Literal["cpu", "cuda"]) -> None:
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, [1, 64]) for end in ("input", "output")]
    graph = helper.make_graph([helper.make_node("Relu", ["input"], ["output"])], "x", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    job = Job((tmp_path / "model.onnx",), window_s=0.01, warm_s=0.0)
    if device == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with raises_error(DeviceUnavailable, "provider/not-available"), Device(provider=device).open() as session:
            session.run(job)
        return
    with Device(provider=device).open() as session:
        (timing,) = session.run(job)
        assert session.provider.lower().startswith(device)
    assert timing.wall


def test_an_iteration_reads_one_number_back_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss, which decides whether the step is made. Everything else stays where it is computed."""
    calls: list[str] = []
    for name in ("item", "cpu", "cuda", "tolist", "numpy"):
        original = getattr(Tensor, name)

        def counted(
            self: Tensor, *args: object, name: str = name, original: object = original, **how: object
        ) -> object:
            calls.append(name)
            return original(self, *args, **how)  # type: ignore[operator]

        monkeypatch.setattr(Tensor, name, counted)
    counts = []
    for epochs in (1, 2):
        calls.clear()
        step = replace(STEP, epochs=epochs)
        train(toy_net(), toy_data(), step, seed=2, emit=quiet, runtime=Runtime(Fabric(accelerator="cpu", devices=1)))
        counts.append({name: calls.count(name) for name in set(calls)})
    iterations = 44 // 8
    more = {name: counts[1][name] - counts[0].get(name, 0) for name in counts[1]}
    assert more["item"] <= iterations + 3  # the epoch's metric reads a few more
    assert more.get("cpu", 0) <= 3
    assert more.get("cuda", 0) == 0
