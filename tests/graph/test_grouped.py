"""Grouped and depthwise convolutions, transposed ones among them, on small networks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import DeformConv2d

Cut = Callable[..., tuple[dict[str, int], nn.Module]]  # see conftest.py


def between(*layers: nn.Module, outputs: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), *layers, nn.ReLU(), nn.Conv2d(outputs, 2, 1))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_outputs_go_with_their_input(transposed: bool, multiplier: int, cut: Cut) -> None:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    module = between(
        kind(12, 12 * multiplier, 4, 2, 1, groups=12), nn.BatchNorm2d(12 * multiplier), outputs=12 * multiplier
    )
    free, slim = cut(module, torch.randn(1, 3, 8, 8))
    assert free == {"0": 12}
    assert (slim[2].groups, slim[2].in_channels, slim[2].out_channels) == (7, 7, 7 * multiplier)
    assert slim[3].num_features == slim[5].in_channels == 7 * multiplier


def test_groups_of_a_transposed_convolution_all_lose_the_same_places(cut: Cut) -> None:
    """4 groups read 3 channels each and write 2; of a group's channels the same ones go everywhere."""
    module = between(nn.ConvTranspose2d(12, 8, 3, 2, 1, output_padding=1, groups=4), nn.BatchNorm2d(8), outputs=8)
    free, slim = cut(module, torch.randn(1, 3, 8, 8))
    assert free == {"0": 3, "2": 2}
    assert (slim[2].groups, slim[2].weight.shape[:2]) == (4, (4, 1))
    assert (slim[0].out_channels, slim[3].num_features, slim[5].in_channels) == (4, 4, 4)


def test_grouped_layers_in_a_row(cut: Cut) -> None:
    layers = (
        nn.ConvTranspose2d(12, 8, 2, 2, groups=4),
        nn.ConvTranspose2d(8, 6, 2, 2, groups=2),
        nn.Conv2d(6, 6, 1, groups=6),
    )
    free, _ = cut(between(*layers, outputs=6), torch.randn(1, 3, 4, 4))
    assert free["0"] == 3
    assert free["3"] == 3


class Blur(nn.Module):
    """A fixed filter on every channel by itself; the number of channels is stored in a word of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("kernel", torch.ones(channels, 1, 3, 3) / 9)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.kernel, stride=2, groups=self.channels)


class Made(nn.Module):
    """A filter made as it runs."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, x.new_ones(x.shape[1], 1, 3, 3), groups=x.shape[1])


@pytest.mark.parametrize("make", [lambda: Blur(12), Made])
def test_a_filter_applied_by_a_function_follows_the_channels(make: Callable[[], nn.Module], cut: Cut) -> None:
    free, slim = cut(between(make(), outputs=12), torch.randn(1, 3, 8, 8))
    assert free == {"0": 12}
    assert getattr(slim[2], "channels", 7) == 7


class Deformed(nn.Module):
    """A convolution with learnt offsets and masks, of as many parts as `offset_groups`."""

    def __init__(self, offset_groups: int, *, bias: bool) -> None:
        super().__init__()
        self.offsets = nn.Conv2d(12, 27 * offset_groups, 3, padding=1)
        self.conv = DeformConv2d(12, 16, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        a, b, mask = self.offsets(x).chunk(3, 1)
        return self.conv(x, torch.cat([a, b], 1), torch.sigmoid(mask))


@pytest.mark.parametrize(("offset_groups", "inputs"), [(1, 12), (2, 6)])
def test_a_deformable_convolution_is_cut_and_its_offsets_stay(offset_groups: int, inputs: int, cut: Cut) -> None:
    free, slim = cut(between(Deformed(offset_groups, bias=offset_groups == 1), outputs=16), torch.randn(1, 3, 6, 6))
    assert free == {"0": inputs, "2.conv": 16}
    assert slim[2].offsets.out_channels == 27 * offset_groups
    assert slim[2].conv.weight.shape[:2] == (10, slim[0].out_channels)


def test_a_decoder_that_starts_from_a_vector_loses_whole_channels(cut: Cut) -> None:
    """noise -> (12, 4, 4) -> picture, as DCGAN does: a channel is sixteen entries of what the linear layer writes."""

    class Generator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start, self.up = nn.Linear(5, 12 * 16), nn.ConvTranspose2d(12, 8, 4, 2, 1, groups=4)
            self.out = nn.Conv2d(8, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.relu(self.up(self.start(x).view(-1, self.up.in_channels, 4, 4))))

    torch.manual_seed(0)
    free, slim = cut(Generator(), torch.randn(1, 5))
    assert free == {"start": 3, "up": 2}
    assert (slim.start.out_features, slim.up.in_channels) == (4 * 16, 4)
