"""Inputs of integers of ONNX files: lengths and masks have values for which the file answers numbers."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from failures import raises_error
from torch import Tensor, nn

from compressor import cli
from compressor.errors import ModelError, VerificationFailed
from compressor.models.source import load_model

X, LENGTHS = torch.randn(2, 6, 8), torch.tensor([6, 4])


class Attention(nn.Module):
    """Attention to the first positions alone; of none it is NaN."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.keys, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def hidden(self, x: Tensor, lengths: Tensor) -> Tensor:
        return torch.arange(x.shape[1])[None] >= lengths[:, None]

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        x = self.embed(x).relu()
        scores = x @ self.keys(x).transpose(1, 2)
        weights = scores.masked_fill(self.hidden(x, lengths)[:, None], -math.inf).softmax(-1)
        return self.head(weights @ x)


class Masked(Attention):
    def hidden(self, x: Tensor, lengths: Tensor) -> Tensor:
        return lengths == 0


class Zeros(Attention):
    """Takes no zero at all: any makes NaN."""

    def hidden(self, x: Tensor, lengths: Tensor) -> Tensor:
        return (lengths == 0).any() | (x[:, :, 0] < -math.inf)


class Trimmed(Attention):
    """The runtime's mean of no positions is 0, PyTorch's is NaN."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.head(self.embed(x[:, : lengths.max()]).relu().mean(1))


class NegativeOnly(Attention):
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.head(self.embed(x).relu()) * torch.log(-2.0 - lengths[:, None, None])


def written(module: nn.Module, path: Path, lengths: Tensor, axes: dict[str, dict[int, str]]) -> str:
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            module.eval(), (X, lengths), path, dynamo=False, opset_version=17,
            input_names=["x", "lengths"], output_names=["y"], dynamic_axes=axes,
        )  # fmt: skip
    return str(path)


BATCH = {"x": {0: "n"}, "lengths": {0: "n"}}
ONES = torch.ones(2, 6, dtype=torch.int64)


@pytest.mark.parametrize(
    ("module", "lengths", "axes", "expected"),
    [
        (Attention(), LENGTHS, BATCH, (1, 6)),
        (Attention(), LENGTHS.int(), {"x": {0: "n", 1: "t"}, "lengths": {0: "n"}}, (1, 64)),
        (Attention(), LENGTHS, {}, (1, 2)),
        (Trimmed(), LENGTHS, BATCH, (1, 6)),
        (Zeros(), ONES, BATCH, (1, 1)),
        (Masked(), ONES, {"x": {0: "n", 1: "t"}, "lengths": {0: "n", 1: "t"}}, (0, 1)),
    ],
)
def test_integers_are_those_with_finite_answers(
    module: nn.Module, lengths: Tensor, axes: dict[str, dict[int, str]], expected: tuple[int, int], tmp_path: Path
) -> None:
    model = load_model(written(module, tmp_path / "m.onnx", lengths, axes))
    assert model.spec.inputs[1].integer_range == expected


def test_where_no_integers_do_the_input_is_named(tmp_path: Path) -> None:
    source = written(NegativeOnly(), tmp_path / "m.onnx", LENGTHS, BATCH)
    with raises_error(ModelError, "onnx-model/no-valid-integers", "lengths", "--data"):
        load_model(source)
    samples = {"lengths": torch.tensor([-5, -4])}
    assert load_model(source, samples=lambda: samples).spec.inputs[1].values == (-5.0, -4.0)


def test_weights_that_are_no_numbers_are_blamed_where_they_are(tmp_path: Path) -> None:
    module = Attention()
    with torch.no_grad():
        module.embed.bias[0] = math.nan
    with raises_error(VerificationFailed, "weights/non-finite"):
        load_model(written(module, tmp_path / "m.onnx", LENGTHS, BATCH))


def test_a_run_keeps_to_the_lengths_of_the_data(tmp_path: Path) -> None:
    source = written(NegativeOnly(), tmp_path / "m.onnx", LENGTHS, BATCH)
    random = np.random.default_rng(0)
    arrays = {"x": random.normal(size=(40, 6, 8)).astype(np.float32), "lengths": random.integers(-9, -3, 40)}
    np.savez(tmp_path / "data.npz", **arrays)
    arguments = [source, "-r", "l1", "--target", "none", "--data", str(tmp_path / "data.npz")]
    assert cli.run([*arguments, "-q", "-o", str(tmp_path / "out")]) == 0
    held = json.loads((tmp_path / "out" / "plan.json").read_text())["model"]["inputs"][1]["values"]
    assert set(held) <= set(range(-9, -3))
