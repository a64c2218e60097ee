"""Small constants that keep a logarithm or a quotient finite remain in the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from exports import export_onnx
from torch import Tensor, nn


class Entropy(nn.Module):
    """-sum p log(p + eps), where a ReLU makes half of p zero."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.layer, self.eps = nn.Linear(6, 8), eps

    def forward(self, x: Tensor) -> Tensor:
        p = self.layer(x).relu()
        return -(p * (p + self.eps).log()).sum(1)


class Unit(Entropy):
    """y / (||y|| + eps), where an input may be zero."""

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.layer.weight.T
        return y / (y.norm(dim=1, keepdim=True) + self.eps)


class Spread(Entropy):
    """(y - mean) / sqrt(var + eps), as a hand-written normalisation has it."""

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.layer.weight.T
        centred = y - y.mean(1, keepdim=True)
        return centred / torch.sqrt(centred.square().mean(1, keepdim=True) + self.eps)


@pytest.mark.parametrize("network", [Entropy, Unit, Spread])
@pytest.mark.parametrize("eps", [1e-15, 1e-8, 1e-6])
def test_small_summands_remain(network: type[Entropy], eps: float, tmp_path: Path) -> None:
    module, zeros, path = network(eps).eval(), torch.zeros(2, 6), tmp_path / "m.onnx"
    written = export_onnx(module, (torch.randn(3, 6),), path, opset=None, dynamic_batch=True, metadata={})
    assert written.ok
    with torch.no_grad():
        expected = module(zeros).numpy()
    session = onnxruntime.InferenceSession(str(written.path))
    (actual,) = session.run(None, {session.get_inputs()[0].name: zeros.numpy()})
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(actual, expected, atol=1e-6)
