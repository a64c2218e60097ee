"""Patches times the weight are the layer's output."""

from __future__ import annotations

import pytest
import torch
from pruned_models import images
from torch import Tensor, nn

from compressor.reconstruction.program import record
from compressor.reconstruction.regression import as_regression
from compressor.reconstruction.sampled_patches import sample_positions
from compressor.reconstruction.solvable_layers import find_layers

LAYERS = [
    (nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2), (3, 4, 11, 13)),
    (nn.Conv2d(4, 6, (1, 3), padding="same", dilation=2, bias=False), (3, 4, 5, 7)),
    (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (3, 4, 5, 7)),
    (nn.Conv2d(4, 6, 3, padding=1, groups=2), (3, 4, 5, 7)),
    (nn.Conv1d(4, 6, 3, padding=2), (2, 4, 9)),
    (nn.Conv3d(2, 3, (1, 2, 3), padding=(0, 1, 1)), (2, 2, 4, 5, 6)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (3, 4, 5, 7)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, dilation=2, groups=2), (3, 4, 5, 7)),
    (nn.ConvTranspose1d(4, 6, 4, stride=3, padding=1), (2, 4, 9)),
    (nn.Linear(5, 3), (2, 7, 5)),
    (nn.Linear(5, 3, bias=False), (6, 5)),
    (nn.Conv2d(4, 8, 3, padding=1, groups=4), (3, 4, 5, 7)),  # depthwise, two outputs for each channel
]


@pytest.mark.parametrize(
    ("layer", "shape"), LAYERS, ids=lambda value: str(value) if isinstance(value, nn.Module) else ""
)
def test_columns_times_the_weight_are_the_output_at_the_sampled_positions(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    x = images(*shape)
    (site,) = find_layers(record(layer, x))
    regression = as_regression(site, layer, {})
    output: Tensor = layer(x).detach()
    generator = torch.Generator().manual_seed(1)
    positions = regression.positions(output, 16, len(x), generator)
    columns = regression.columns(site_input(layer, x), output, positions)
    product = torch.einsum("rgn,gon->rgo", columns.double(), regression.weight).flatten(1)
    if layer.bias is not None:
        product = product + layer.bias.detach().double()
    torch.testing.assert_close(product.float(), regression.targets(output, positions), rtol=1e-5, atol=1e-5)


def site_input(layer: nn.Module, x: Tensor) -> Tensor:
    """What the operator reads: padding modes other than zeros pad in front of it."""
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
        return nn.functional.pad(x, (1, 1, 1, 1), mode=layer.padding_mode)
    return x


def test_positions_are_distinct_in_range_and_reproducible() -> None:
    draws = [sample_positions((3, 10, 20), 64, 3, torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*draws)
    assert draws[0].shape == (3, 64)
    assert all(len(row.unique()) == 64 for row in draws[0])
    assert 0 <= int(draws[0].min()) <= int(draws[0].max()) < 200
    assert torch.equal(sample_positions((2, 3, 3), 64, 2, torch.Generator()), torch.arange(9).expand(2, 9))
    assert sample_positions((12, 100), 64, 3, torch.Generator()).shape == (12, 16)  # four windows of each image
