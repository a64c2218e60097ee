"""Sizes that a file with a free batch computes, and that its weights decide, are rewritten as fixed ones are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx_models import export, prunable
from torch import Tensor, nn

from compressor.core import PrunePlan
from compressor.models.onnx_import.constant_sizes import constant_sizes
from compressor.models.onnx_import.load_onnx import build_from_graph
from compressor.models.onnx_import.read_graph import read_graph
from compressor.models.onnx_import.write_back import write_architecture, write_module
from compressor.models.source import load_model
from compressor.surgery.analysis import analyze
from compressor.surgery.certificate import certify_removal
from compressor.surgery.removal import remove_channels


class Textbook(nn.Module):
    """Attention whose head size is `width // heads`, a size of a tensor that an exporter computes."""

    def __init__(self) -> None:
        super().__init__()
        self.p, self.q, self.k, self.v = nn.Linear(8, 16), nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(16, 32)
        self.o, self.heads = nn.Linear(32, 4), 4

    def split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, x.shape[2] // self.heads).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.p(x))
        q, k, v = (self.split(layer(x)) for layer in (self.q, self.k, self.v))
        return self.o((torch.softmax(q @ k.transpose(2, 3), -1) @ v).transpose(1, 2).flatten(2))


class Chunks(nn.Module):
    """One projection in three chunks; channels attend to each other with `across`, as in XCiT."""

    def __init__(self, across: bool = False) -> None:
        super().__init__()
        self.p, self.qkv, self.o = nn.Linear(8, 16), nn.Linear(16, 96), nn.Linear(32, 4)
        self.heads, self.across = 4, across

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(torch.relu(self.p(x))).chunk(3, -1)
        q, k, v = (
            part.reshape(part.shape[0], part.shape[1], self.heads, part.shape[2] // self.heads).permute(0, 2, 1, 3)
            for part in parts
        )
        if self.across:
            q, k, v = q.transpose(2, 3), k.transpose(2, 3), v.transpose(2, 3)
        y = torch.softmax(q @ k.transpose(2, 3), -1) @ v
        y = y.permute(0, 3, 1, 2) if self.across else y.permute(0, 2, 1, 3)
        return self.o(y.reshape(y.shape[0], y.shape[1], y.shape[2] * y.shape[3]))


class Joint(nn.Module):
    """The reshape of timm: (B, N, C) to (B, N, 3, heads, C // heads)."""

    def __init__(self) -> None:
        super().__init__()
        self.p, self.qkv, self.o, self.heads = nn.Linear(8, 32), nn.Linear(32, 96), nn.Linear(32, 4), 4

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.p(x))
        batch, places, width = x.shape
        parts = self.qkv(x).reshape(batch, places, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        y = (q @ k.transpose(2, 3)).softmax(-1) @ v
        return self.o(y.transpose(1, 2).reshape(batch, places, self.heads * (width // self.heads)))


pytestmark = pytest.mark.filterwarnings("ignore")

NETWORKS = [Textbook(), Chunks(), Chunks(across=True), Joint()]
NAMES = ["textbook", "chunks", "across", "joint"]


def exported(module: nn.Module, path: Path) -> Path:
    """A file whose batch and length are free."""
    torch.manual_seed(0)
    torch.onnx.export(
        module.eval(), (torch.randn(2, 6, 8),), path, dynamo=False, opset_version=17, input_names=["x"],
        dynamic_axes={"x": {0: "n", 1: "length"}},
    )  # fmt: skip
    return path


@pytest.mark.parametrize("network", NETWORKS, ids=NAMES)
def test_heads_of_a_file_with_free_sizes_are_removed(network: nn.Module, tmp_path: Path) -> None:
    path, x = exported(network, tmp_path / "m.onnx"), torch.randn(1, 6, 8)
    loaded = load_model(str(path), input=(6, 8)).module
    graph = analyze(loaded, x, name="it")
    free = [group for group in graph.groups if group.frozen is None]
    fixed = load_model(str(export(network, (6, 8), tmp_path / "fixed.onnx", dynamic=False))).module
    assert sorted(group.size for group in free) == prunable(fixed, x)
    plan = PrunePlan({group.name: np.arange(group.size) % 2 == 0 for group in free})
    slim = remove_channels(loaded, graph, plan)
    assert certify_removal(loaded, slim, graph, plan, x).ok
    session = onnxruntime.InferenceSession(write_module(slim, path, [x], {}).SerializeToString())
    for shape in ((1, 6, 8), (3, 6, 8), (2, 5, 8)):
        x = torch.randn(shape)
        with torch.no_grad():
            expected = slim(x).numpy()
        assert np.allclose(session.run(None, {"x": x.numpy()})[0], expected, atol=1e-6)


def test_sizes_are_those_that_hold_for_every_input(tmp_path: Path) -> None:
    sizes = constant_sizes(onnx.load(exported(Textbook(), tmp_path / "m.onnx")))
    assert sorted(sizes.values(), key=len) == [(None, None, 32), *[(None, None, 4, 8)] * 3]


class Token(nn.Module):
    """A class token that every sample gets, and that asks before it meets the sample."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.p, self.q, self.k, self.o = nn.Linear(8, 16), nn.Linear(16, 80), nn.Linear(16, 80), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.p(x))
        token = self.token.expand(x.shape[0], -1, -1)
        weights = torch.softmax(self.q(token) @ self.k(x).transpose(1, 2), -1)
        return self.o(torch.cat([token + weights @ x, x], 1))


def test_repeated_weights_are_parameters_and_go_into_the_files(tmp_path: Path) -> None:
    network = Token()
    path, x = exported(network, tmp_path / "m.onnx"), torch.randn(2, 6, 8)
    loaded = load_model(str(path), input=(6, 8))
    assert prunable(loaded.module, x[:1]) == prunable(network, x[:1])
    write_architecture(path, tmp_path / "bare.onnx")
    rebuilt = build_from_graph(read_graph(tmp_path / "bare.onnx"), loaded.spec)
    rebuilt.load_state_dict(loaded.module.state_dict())
    with torch.no_grad():
        assert rebuilt(x).equal(loaded.module(x))
