"""Which modules are residual blocks, on networks as users write them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from compressor.graph.residual_blocks import residual_blocks, with_branches_zeroed


def conv(*sizes: int) -> nn.Conv2d:
    return nn.Conv2d(*sizes, 3, padding=1)


class PostActivation(nn.Module):
    """As in ResNets; the input is behind a ReLU, or is not."""

    def __init__(self, activation: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(4, 4), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = conv(4, 4), nn.BatchNorm2d(4)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        out += x
        return self.activation(out)


class Plain(nn.Module):
    """A layer and its input, joined by some function."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor] = torch.add) -> None:
        super().__init__()
        self.layer, self.join = conv(4, 4), join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(x, torch.nn.functional.silu(self.layer(x)))


class Transformer(nn.Module):
    """Two branches in one block, a layer scale, and a stream that is reshaped between them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(4), nn.MultiheadAttention(4, 2, batch_first=True)
        self.mlp, self.gamma = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)), nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2).transpose(1, 2)
        y = self.norm(flat)
        flat = flat + self.attention(y, y, y, need_weights=False)[0]
        flat = flat + self.gamma * self.mlp(flat)
        return flat.transpose(1, 2).reshape(x.shape)


class Repeats(nn.Module):
    """C2f of YOLO: blocks in a ModuleList, whose results are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.m, self.last = nn.ModuleList([Plain(), Plain()]), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x]
        parts.extend(block(parts[-1]) for block in self.m)
        return self.last(torch.cat(parts, 1))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Plain()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(x))


def names(*layers: nn.Module) -> list[str]:
    torch.manual_seed(0)
    return [block.name for block in residual_blocks(nn.Sequential(*layers).eval(), torch.randn(2, 4, 6, 6))]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([nn.ReLU(), PostActivation(), PostActivation()], ["1", "2"]),
        ([conv(4, 4), PostActivation()], []),  # the ReLU changes what is negative
        ([nn.ReLU(), nn.MaxPool2d(2), PostActivation()], ["2"]),
        ([nn.ReLU6(), PostActivation(nn.functional.relu6)], ["1"]),
        ([nn.Hardtanh(0, 1), PostActivation(nn.functional.relu6)], ["1"]),
        ([nn.ReLU(), PostActivation(nn.functional.relu6)], []),  # right for small values only
        ([conv(4, 4), PostActivation(nn.Identity())], ["1"]),
        ([Plain(), Plain()], ["0", "1"]),
        ([nn.Sequential(Plain(), Plain())], ["0.0", "0.1"]),  # the innermost
        ([Plain(lambda x, y: torch.add(y, x))], ["0"]),
        ([Plain(torch.mul)], []),
        ([Plain(torch.sub)], []),
        ([Plain(lambda x, y: torch.add(x, y, alpha=0.5))], []),
        ([Plain(lambda x, y: x + torch.sigmoid(y))], []),  # 0.5 where the layer is zero
        ([Transformer()], ["0"]),
        ([Repeats()], ["0.m.0", "0.m.1"]),
        ([Twice()], ["0"]),  # not the block in it, which would be gone twice
        ([conv(4, 4), nn.Dropout()], []),  # the identity in eval mode, but nothing is added
    ],
)  # fmt: skip
def test_blocks(layers: list[nn.Module], expected: list[str]) -> None:
    assert names(*layers) == expected


def test_a_block_that_shares_a_parameter_is_no_block() -> None:
    first, second = Plain(), Plain()
    second.layer.weight = first.layer.weight
    assert names(first, second) == []


def test_the_last_writers_are_the_norm_the_projection_or_the_layer_scale() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.ReLU(), PostActivation(), Transformer()).eval()
    post, transformer = residual_blocks(network, torch.randn(2, 4, 6, 6))
    assert post.writers == ("1.bn2.weight", "1.bn2.bias")
    assert transformer.writers == ("2.attention.out_proj.weight", "2.attention.out_proj.bias", "2.gamma")
    assert (post.channel_dim, post.shape) == (1, (2, 4, 6, 6))


def test_zeroed_branches_return_the_input() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.ReLU(), PostActivation(), PostActivation()).eval()
    blocks = residual_blocks(network, x := torch.randn(2, 4, 6, 6))
    assert torch.equal(with_branches_zeroed(network, blocks)(x), x.relu())
    assert not torch.equal(with_branches_zeroed(network, blocks[:1])(x), x.relu())
