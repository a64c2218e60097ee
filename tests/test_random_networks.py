"""Any network made of common pieces, cut at any ratio, comes out proven, exported, reloadable and verifiable."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import compressor
from compressor.commands.verify import verify_folder
from compressor.pipeline import compress_model
from compressor.recipe import read_recipe
from compressor.run_options import RunOptions

pytestmark = pytest.mark.usefixtures("quick_export")

NET = """
import torch
from torch import nn
from torch.nn import functional as F

BLOCKS, WIDTH = {blocks}, {width}
input_size = (3, 8, 8)


class Block(nn.Module):
    def __init__(self, kind, width):
        super().__init__()
        self.kind, out = kind, 4 if kind == "dense" else width
        inner = {{"gated": 2, "residual": 6, "split": 8, "mlp": 8}}.get(kind, width)
        groups = {{"depthwise": width, "grouped": 2}}.get(kind, 1)
        self.first = nn.Conv2d(width, inner, 3, padding=1, groups=groups)
        self.norm = nn.BatchNorm2d(inner)
        self.second = nn.Conv2d(inner // 2 if kind == "split" else inner, out, 1)
        self.scale = nn.Parameter(torch.ones(out, 1, 1))
        self.mix = nn.LayerNorm(width) if kind == "mlp" else nn.Identity()

    def forward(self, x):
        y = self.mix(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if self.kind == "mlp" else x
        y = F.adaptive_avg_pool2d(y, 1) if self.kind == "gated" else y
        y = F.relu(self.norm(self.first(y)))
        if self.kind == "split":
            a, b = y.chunk(2, 1)
            y = a * torch.sigmoid(b)
        if self.kind == "shuffled":
            n, c, h, w = y.shape
            y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        y = self.second(y) * self.scale
        if self.kind == "gated":
            return x * torch.sigmoid(y)
        if self.kind == "dense":
            return torch.cat([x, y], 1)
        return x + y if self.kind in ("residual", "mlp") else y


class Attention(nn.Module):
    # Tokens with learnt positions and one learnt token more, which is dropped again.
    def __init__(self, width):
        super().__init__()
        self.heads, self.head_dim = 2, width // 2
        self.places, self.token = nn.Parameter(torch.randn(1, 65, width)), nn.Parameter(torch.randn(1, 1, width))
        self.norm, self.qkv, self.proj = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        t = torch.cat([self.token.expand(x.shape[0], -1, -1), x.flatten(2).transpose(1, 2)], 1) + self.places
        b, n, _ = t.shape
        q, k, v = self.qkv(self.norm(t)).reshape(b, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, self.heads * self.head_dim)
        t = t + self.proj(y)
        return t[:, 1:].transpose(1, 2).unflatten(2, (8, 8))


class Normed(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.norm = nn.Conv2d(width, 8, 3, padding=1), nn.GroupNorm(4, 8)
        self.second = nn.Conv2d(8, width, 1)

    def forward(self, x):
        return x + self.second(F.gelu(self.norm(self.first(x))))


class Twice(nn.Module):
    # One layer at two places, and its weight at a third.
    def __init__(self, width):
        super().__init__()
        self.wide, self.same, self.back = nn.Conv2d(width, 6, 1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, width, 1)

    def forward(self, x):
        y = self.same(F.relu(self.same(F.relu(self.wide(x)))))
        return self.back(F.relu(F.conv2d(y, self.same.weight, padding=1)))


class Multiplied(nn.Module):
    # A depthwise convolution with two filters for each channel.
    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv2d(width, 2 * width, 3, padding=1, groups=width)
        self.norm, self.second = nn.BatchNorm2d(2 * width), nn.Conv2d(2 * width, width, 1)

    def forward(self, x):
        return self.second(F.silu(self.norm(self.first(x))))


class Signal(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.second = nn.Conv1d(width, 6, 3, padding=1), nn.Conv1d(6, width, 1)

    def forward(self, x):
        return self.second(F.relu(self.first(x.flatten(2)))).unflatten(2, (8, 8)) + x


class Volume(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.second = nn.Conv3d(width, 6, 3, padding=1), nn.Conv3d(6, width, 1)

    def forward(self, x):
        return self.second(F.relu(self.first(x.unsqueeze(2)))).squeeze(2)


class Recurrent(nn.Module):
    # An LSTM over columns, which stays whole, and a perceptron behind it.
    def __init__(self, width):
        super().__init__()
        self.lstm = nn.LSTM(width, 5, batch_first=True)
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, width)

    def forward(self, x):
        last = self.lstm(x.mean(2).transpose(1, 2))[0][:, -1]
        return x * torch.sigmoid(self.second(F.relu(self.first(last))))[:, :, None, None]


OTHERS = {{each.__name__.lower(): each for each in (Attention, Normed, Twice, Multiplied, Signal, Volume, Recurrent)}}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        width, self.blocks = WIDTH, nn.ModuleList()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        for kind in BLOCKS:
            self.blocks.append(OTHERS[kind](width) if kind in OTHERS else Block(kind, width))
            width += 4 if kind == "dense" else 0
        self.head = nn.Linear(4 * width, 3)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


def make():
    torch.manual_seed(0)
    net = Net()
    for name, tensor in (*net.named_buffers(), *net.named_parameters()):
        if tensor.ndim == 1 and tensor.is_floating_point():
            torch.nn.init.uniform_(tensor.detach(), 0.5, 1.5)
    return net
"""

KINDS = (
    *("plain", "depthwise", "grouped", "dense", "gated", "residual", "split", "shuffled", "mlp"),
    *("attention", "normed", "twice", "multiplied", "signal", "volume", "recurrent"),
)
NETWORKS = given(
    blocks=st.lists(st.sampled_from(KINDS), min_size=1, max_size=5),
    width=st.sampled_from([4, 6, 8]),
    percent=st.integers(5, 95),
)


def check(blocks: list[str], width: int, percent: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "net.py").write_text(NET.format(blocks=blocks, width=width))
        ratio = f"prune.target={{ratio: {percent}%}}"
        recipe = read_recipe("l1", [ratio, "bench.target=none", "prune.round_to=1"])
        report = compress_model(
            f"{folder / 'net.py'}:make",
            recipe,
            folder / "out",
            RunOptions(),
        )
        assert report["certificate"]["ok"]
        assert report["onnx"]["ok"]
        assert report["slim"]["params"] < report["dense"]["params"]
        checks = verify_folder(folder / "out", emit=lambda event, fields: None)
        assert checks["ok"], checks
        slim = compressor.load(folder / "out")
        x = torch.randn(3, 3, 8, 8)
        session = onnxruntime.InferenceSession(folder / "out" / "model.onnx", providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.inference_mode():
            expected = slim(x).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * abs(expected).max())


@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@NETWORKS
def test_a_few_random_networks(blocks: list[str], width: int, percent: int) -> None:
    check(blocks, width, percent)


@pytest.mark.long
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@NETWORKS
def test_many_random_networks(blocks: list[str], width: int, percent: int) -> None:
    check(blocks, width, percent)
