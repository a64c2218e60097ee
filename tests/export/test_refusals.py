"""What no exporter takes: the error names the line of the model's code, and what to do."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from exports import export_onnx
from failures import raises_error
from torch import Tensor, nn

from compressor.core import BatchDims
from compressor.errors import ModelError


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 66)
        self.register_buffer("window", torch.hann_window(64))


class Branches(Layer):
    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        y = self.layer(x)
        if float(scale) > 1.0:  # here
            y = y * scale
        return y


class Repeats(Layer):
    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        y = self.layer(x)
        for _ in range(int(scale)):  # here
            y = y + 1
        return y


class Complex(Layer):
    def forward(self, x: Tensor) -> Tensor:
        real, imaginary = self.layer(x).chunk(2, -1)
        return torch.view_as_real(
            torch.complex(real, imaginary).exp()  # here
        )


class Spectrum(Layer):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"spectrum": torch.complex(*self.layer(x).chunk(2, -1))}


class Vocoder(Layer):
    """The head of Vocos: complex numbers inside, which torch's exporter converts, and indices of int32."""

    def forward(self, x: Tensor) -> Tensor:
        magnitude, phase = self.layer(x).transpose(1, 2).chunk(2, 1)
        return torch.istft(torch.polar(magnitude.exp(), phase), 64, 16, window=self.window)


X = torch.randn(4, 10, 8)


def line_of(module: nn.Module) -> str:
    lines, first = inspect.getsourcelines(type(module))
    (at,) = (number for number, line in enumerate(lines, first) if line.endswith("# here\n"))
    return f"{Path(__file__).name}:{at}"


@pytest.mark.parametrize(
    ("module", "inputs", "hint"),
    [
        (Branches(), (X, torch.tensor(0.5)), "torch.where"),
        (Repeats(), (X, torch.tensor(3.0)), "torch.where"),
        (Complex(), (X,), "real and imaginary"),
    ],
    ids=lambda case: type(case).__name__ if isinstance(case, nn.Module) else "",
)
def test_the_line_is_named(module: nn.Module, inputs: tuple[Tensor, ...], hint: str, tmp_path: Path) -> None:
    names, dims = ("x", "scale")[: len(inputs)], (0, None)[: len(inputs)]
    with raises_error(ModelError, "export/every-exporter-failed", line_of(module), hint) as caught:
        export(module, inputs, names, dims, tmp_path)
    assert "zip()" not in str(caught.value)
    assert "zuf" not in str(caught.value)


def test_complex_outputs_are_refused_before_anything_is_exported(tmp_path: Path) -> None:
    with raises_error(ModelError, "export/complex-output", "spectrum", "torch.view_as_real"):
        export(Spectrum(), (X,), ("x",), (0,), tmp_path)


def test_complex_numbers_inside_are_exported(tmp_path: Path) -> None:
    assert export(Vocoder(), (X,), ("x",), (0,), tmp_path).notes == ()


def export(module: nn.Module, inputs: tuple[Tensor, ...], names: tuple[str, ...], dims: BatchDims, folder: Path):  # type: ignore[no-untyped-def]
    return export_onnx(
        module.eval(), inputs, folder / "m.onnx",
        opset=None, dynamic_batch=True, names=names, batch_dims=dims, metadata={},
    )  # fmt: skip
