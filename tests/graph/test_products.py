"""Linear layers written as products are layers; what all products multiply is counted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.graph.cost import count_cost, macs_by_weight
from compressor.surgery.analysis import analyze

Cut = Callable[..., tuple[dict[str, int], nn.Module]]  # see conftest.py


class Conv1D(nn.Module):
    """As GPT-2 writes a linear layer, with the width it puts out stored."""

    def __init__(self, nx: int, nf: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.size()[:-1], self.nf)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(shape)


class Matmul(nn.Module):
    def __init__(self, nx: int, nf: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Transposed(Matmul):
    """The weight from the left, on channels that lie before the positions."""

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight.t() @ x.transpose(1, 2)).transpose(1, 2) + self.bias


class Einsum(Matmul):
    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("...i,io->...o", x, self.weight) + self.bias


class PerHead(nn.Module):
    """An einsum with a weight of three dimensions, as JAX code has it: both heads and their width are written."""

    def __init__(self, nx: int, nf: int) -> None:
        super().__init__()
        self.into, self.out = nn.Parameter(torch.randn(nx, 2, 6)), nn.Parameter(torch.randn(2, 6, nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bnhd,hdo->bno", torch.einsum("bni,ihd->bnhd", x, self.into).relu(), self.out)


class LowRank(nn.Module):
    """LoRA: W + B A, whose rank is a width, too."""

    def __init__(self, nx: int, nf: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(nf, nx))
        self.a, self.b = nn.Parameter(torch.randn(4, nx)), nn.Parameter(torch.randn(nf, 4))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight + self.b @ self.a)


LINEAR = (Conv1D, Matmul, Transposed, Einsum, PerHead, LowRank)


@pytest.mark.parametrize("make", LINEAR)
def test_a_linear_layer_however_written_is_cut(make: type[nn.Module], cut: Cut) -> None:
    torch.manual_seed(0)
    free, slim = cut(nn.Sequential(make(5, 12), nn.GELU(), make(12, 9), nn.Linear(9, 3)), torch.randn(1, 7, 5))
    assert free["0"] in (12, 2)
    assert slim[3].in_features == 5
    if make is Conv1D:
        assert (slim[0].nf, slim[0].weight.shape, slim[2].nf) == (7, (5, 7), 5)
    if make is PerHead:
        assert free == {"0": 2, "0#2": 6, "0#3": 12, "2": 2, "2#2": 6, "2#3": 9}
    if make is LowRank:
        assert slim[0].a.shape == (2, 5)


@pytest.mark.parametrize("make", [Conv1D, Matmul, Transposed, Einsum])
def test_it_costs_what_a_linear_layer_costs(make: type[nn.Module]) -> None:
    found, inputs = nn.Sequential(make(5, 12), nn.Linear(12, 3)), torch.randn(1, 7, 5)
    assert count_cost(found, inputs).macs == 7 * (5 * 12 + 12 * 3)


def test_the_weights_of_products_are_weights_of_layers() -> None:
    module, inputs = nn.Sequential(Conv1D(5, 12), Matmul(12, 4), nn.Linear(4, 3)), torch.randn(1, 7, 5)
    found = count_cost(module, inputs)
    assert (found.weights, found.nodes) == (5 * 12 + 12 * 4 + 4 * 3, 12 + 4)
    assert macs_by_weight(module, inputs) == {"0.weight": 7 * 60, "1.weight": 7 * 48, "2.weight": 7 * 12}


class Attention(nn.Module):
    """Five positions of 6 ask seven of 6 for as many values of 4."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.way == "fused":
            return functional.scaled_dot_product_attention(q, k, v)
        if self.way == "einsum":
            return torch.einsum("bij,bjd->bid", torch.einsum("bid,bjd->bij", q, k).softmax(-1), v)
        if self.way == "baddbmm":
            return torch.baddbmm(torch.zeros(1, 5, 7), q, k.transpose(1, 2), beta=0).softmax(-1) @ v
        return torch.bmm((q @ k.transpose(-2, -1)).softmax(-1), v)


@pytest.mark.parametrize("way", ["fused", "einsum", "baddbmm", "matmul"])
def test_products_of_activations_are_counted(way: str) -> None:
    inputs = torch.randn(1, 5, 6), torch.randn(1, 7, 6), torch.randn(1, 7, 4)
    assert count_cost(Attention(way), *inputs).macs == 5 * 7 * (6 + 4)


def test_an_einsum_of_three_is_counted_from_the_left() -> None:
    class Three(nn.Module):
        def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
            return torch.einsum("ij,jk,kl", a, b, c)

    assert count_cost(Three(), torch.randn(2, 3), torch.randn(3, 4), torch.randn(4, 5)).macs == 2 * 3 * 4 + 2 * 4 * 5


def test_a_bilinear_layer_is_cut(cut: Cut) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.both, self.head = (
                nn.Linear(5, 6),
                nn.Linear(5, 9),
                nn.Bilinear(6, 9, 6),
                nn.Linear(6, 2),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.both(self.a(x), self.b(x)))

    torch.manual_seed(0)
    free, slim = cut(Pair(), torch.randn(1, 5))
    assert free == {"a": 6, "b": 9, "both": 6}
    assert (slim.both.in1_features, slim.both.in2_features, slim.both.out_features) == (3, 5, 3)
    assert count_cost(slim, torch.randn(1, 5)).macs == 5 * 3 + 5 * 5 + 3 * 3 * 5 + 3 * 5 + 3 * 2


def test_a_sum_over_channels_of_two_activations_holds_them() -> None:
    class Gram(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = nn.Linear(5, 6), nn.Linear(7, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.head(torch.einsum("bnc,bmc->bnm", x, x))

    groups = {group.name: group for group in analyze(Gram().eval(), torch.randn(1, 7, 5), name="gram").groups}
    assert "summed over without weights (aten.einsum" in groups["a"].frozen.reason


class Mixed(nn.Module):
    """Kernels that are mixed anew for every sample (CondConv): one convolution with a group for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.router = nn.Conv2d(3, 8, 1), nn.Linear(8, 4)
        self.kernels = nn.Parameter(torch.randn(4, 6, 8, 3, 3))
        self.b, self.c = nn.Conv2d(6, 10, 1), nn.Conv2d(10, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        batch, channels, height, width = x.shape
        mixture = self.router(x.mean((2, 3))).sigmoid()
        kernels = (mixture @ self.kernels.flatten(1)).view(-1, channels, 3, 3)
        mixed = functional.conv2d(x.reshape(1, -1, height, width), kernels, padding=1, groups=batch)
        return self.c(self.b(mixed.view(batch, -1, height, width)).relu()).mean((2, 3))


def test_what_a_computed_kernel_reads_stays() -> None:
    structure = analyze(Mixed().eval(), torch.randn(1, 3, 6, 6), name="it")
    free = {group.name for group in structure.groups if group.frozen is None}
    assert free == {"router", "b"}
    assert any("summed over without weights" in group.frozen.reason for group in structure.groups if group.frozen)
