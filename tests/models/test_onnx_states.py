"""Files with several inputs: a state whose samples are in another dimension, and an input that all samples share."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from failures import raises_error
from torch import Tensor, nn

from compressor import cli
from compressor.core import ModelInput
from compressor.data.open_samples import Preprocessing, open_samples
from compressor.errors import DataError
from compressor.models.source import load_model


class Recurrent(nn.Module):
    """x (B, 5, 6) and a state (2, B, 8), such as a detector of speech has it; the next state is an output."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.cell, self.head = nn.Linear(6, 16), nn.GRU(16, 8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        out, state = self.cell(self.embed(x).relu().transpose(0, 1), state)
        return self.head(out[-1]), state


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("states") / "m.onnx"
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            Recurrent().eval(), (torch.randn(2, 5, 6), torch.randn(2, 2, 8)), path, dynamo=False, opset_version=17,
            input_names=["x", "state"], output_names=["y", "next"],
            dynamic_axes={"x": {0: "n"}, "state": {1: "n"}, "y": {0: "n"}, "next": {1: "n"}},
        )  # fmt: skip
    return path


def test_the_module_has_the_samples_of_every_input_first(given: Path) -> None:
    loaded = load_model(str(given))
    assert [(one.shape, one.batch_dim) for one in loaded.spec.inputs] == [((5, 6), 0), ((2, 8), 0)]
    x, state = torch.randn(3, 5, 6), torch.randn(3, 2, 8)
    with torch.no_grad():
        answers = [tensor.numpy() for tensor in loaded.module(x, state)]
    session = onnxruntime.InferenceSession(given)
    expected = session.run(None, {"x": x.numpy(), "state": state.transpose(0, 1).numpy()})
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(answers, expected, strict=True))


def test_a_run_with_states_of_samples(given: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = {"x": random.normal(size=(40, 5, 6)), "state": random.normal(size=(40, 2, 8))}
    np.savez(tmp_path / "d.npz", **{name: array.astype(np.float32) for name, array in arrays.items()})
    out = tmp_path / "out"
    settings = ["--set", "prune.target={macs: 70%}", "--set", "prune.round_to=1", "--set", "bench.seconds=1", "-q"]
    assert cli.run([str(given), "-r", "l1", "--data", str(tmp_path / "d.npz"), *settings, "-o", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["agreement"]["samples"] == 8
    assert report["slim"]["latency_ms"]["p50"] > 0
    assert report["certificate"]["ok"]
    session = onnxruntime.InferenceSession(out / "model.onnx")
    assert [node.shape for node in session.get_inputs()] == [["n", 5, 6], [2, "n", 8]]
    assert cli.run(["verify", str(out), "-q"]) == 0


class Fixed(nn.Module):
    """x (1, 3, 6) and a state (1, 1, 8): the file runs one sample only."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.more, self.cell, self.head = (
            nn.Linear(6, 16),
            nn.Linear(16, 16),
            nn.GRU(16, 8),
            nn.Linear(8, 2),
        )

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        sequence = self.more(self.embed(x).relu()).relu().reshape(3, 1, 16)
        return self.head(self.cell(sequence, state)[0].reshape(1, 24)[:, -8:])


def test_samples_of_a_file_for_one_are_run_and_fitted_apart(tmp_path: Path) -> None:
    path, random = tmp_path / "m.onnx", np.random.default_rng(0)
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            Fixed().eval(), (torch.randn(1, 3, 6), torch.randn(1, 1, 8)), path, dynamo=False, opset_version=17,
            input_names=["x", "state"],
        )  # fmt: skip
    loaded = load_model(str(path))
    assert loaded.spec.arguments == {"samples_apart": True}
    arrays = {"x": random.normal(size=(50, 3, 6)), "state": random.normal(size=(50, 1, 8))}
    np.savez(tmp_path / "d.npz", **{name: array.astype(np.float32) for name, array in arrays.items()})
    out = tmp_path / "out"
    values = (
        "prune.target={macs: 80%}",
        "prune.round_to=1",
        "prune.rounds=1",
        "reconstruct={images: 24, refine: false}",
    )
    settings = [part for value in values for part in ("--set", value)]
    command = [str(path), "-r", "minutes", "--data", str(tmp_path / "d.npz"), *settings, "--target", "none", "-q"]
    assert cli.run([*command, "-o", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["agreement"]["samples"] == 10
    assert cli.run(["verify", str(out), "-q"]) == 0


def shared_inputs() -> list[ModelInput]:
    return [ModelInput((4,), name="x"), ModelInput((2, 1, 3), name="h", batch_dim=None)]


@pytest.mark.parametrize("rows", [None, 6])
def test_an_input_without_samples_has_one_value(rows: int | None, tmp_path: Path) -> None:
    value = np.arange(6, dtype=np.float32).reshape(2, 1, 3)
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, h=value if rows is None else np.stack([value] * rows))
    samples = open_samples(tmp_path / "d.npz", shared_inputs(), None, Preprocessing())
    batch = next(iter(samples.calibration_batches(3, images=3)))
    assert [tuple(tensor.shape) for tensor in batch] == [(3, 4), (2, 1, 3)]
    assert np.array_equal(batch[1].numpy(), value)


def test_values_of_an_input_without_samples_that_differ_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((2, 4), np.float32), h=np.arange(12, dtype=np.float32).reshape(2, 2, 1, 3))
    with raises_error(DataError, "data/shared-input", "h"):
        open_samples(tmp_path / "d.npz", shared_inputs(), None, Preprocessing())
