"""What runs, predicted for a plan, against the slim module as it runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.core import Layer, PrunePlan
from compressor.graph.activation_sizes import peak_memory
from compressor.graph.cost import removed_counts
from compressor.graph.rules import table as rules
from compressor.graph.trace import trace_module
from compressor.surgery.analysis import analyze
from compressor.surgery.removal import remove_channels


class Mixed(nn.Module):
    """A dense, a strided, a grouped, a depthwise and a transposed convolution, a residual sum, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.grouped = nn.Conv2d(16, 24, 3, stride=2, padding=1, groups=4)
        self.up = nn.ConvTranspose2d(24, 16, 2, stride=2)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = x + self.up(F.relu(self.grouped(self.deep(x))))
        return self.head(x.mean((2, 3)))


def seeded(module: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return module().eval()


def test_layers_are_read_off_as_they_are() -> None:
    found = analyze(seeded(Mixed), torch.randn(1, 3, 8, 8), name="mixed").workload.layers
    same = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "kernel": (3, 3)}
    assert found == (
        Layer("conv2d", 3, 16, (8, 8), 1, **same),
        Layer("conv2d", 16, 16, (8, 8), 16, **same),
        Layer("conv2d", 16, 24, (8, 8), 4, **{**same, "stride": (2, 2)}),
        Layer("conv_transpose2d", 24, 16, (4, 4), 1, (2, 2), (2, 2), (0, 0), (1, 1)),
        Layer("linear", 16, 5, (1,)),
    )


@pytest.mark.parametrize("seed", range(4))
def test_widths_and_peak_of_a_plan_are_those_of_the_slim_module(seed: int) -> None:
    module, inputs = seeded(Mixed), torch.randn(1, 3, 8, 8)
    structure = analyze(module, inputs, name="mixed")
    random = np.random.default_rng(seed)
    kept = {}
    for group in structure.groups:
        if group.frozen is None:
            kept[group.name] = random.permutation(group.size) < random.integers(1, group.size)
    slim = remove_channels(module, structure, PrunePlan(kept))
    removed_G = removed_counts([group.name for group in structure.groups], PrunePlan(kept))
    work = structure.workload
    sizes = work.sizes(removed_G[None])[0]
    found = analyze(slim, inputs, name="slim").workload.layers
    assert [(layer.in_channels, layer.out_channels) for layer in found] == [
        (round(sizes[a]), round(sizes[b])) for a, b in zip(work.inputs_W, work.outputs_W, strict=True)
    ]
    assert work.peak(removed_G) == peak_memory(trace_module(slim, inputs, known=rules.has_rule))


def test_peak_of_a_chain_by_hand() -> None:
    """3x4x4 in (48), conv to 8 channels (128), ReLU (128), conv to 2 (32): conv and ReLU together are the most."""
    chain = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
    assert peak_memory(trace_module(chain, torch.randn(1, 3, 4, 4), known=rules.has_rule)) == 128 + 128
    inplace = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(inplace=True), nn.Conv2d(8, 2, 1)).eval()
    assert peak_memory(trace_module(inplace, torch.randn(1, 3, 4, 4), known=rules.has_rule)) == 48 + 128
