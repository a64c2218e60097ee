"""The proof of dropped blocks, and what stands in their place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressor.execution.dropped_blocks import is_inside, without_blocks
from compressor.graph.residual_blocks import residual_blocks
from compressor.surgery.certificate import certify_dropped_blocks


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return x + scale * self.layer(x)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.blocks, self.head = nn.Linear(3, 3), nn.ModuleList(Linear() for _ in range(3)), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x, scale=2.0)
        return self.head(x)


def network() -> Network:
    torch.manual_seed(0)
    return Network().eval()


def test_the_proof_compares_with_the_dense_model_whose_branches_are_zero() -> None:
    dense, x = network(), torch.randn(2, 3)
    blocks = residual_blocks(dense, x)
    assert [block.name for block in blocks] == ["blocks.0", "blocks.1", "blocks.2"]
    slim = without_blocks(dense, ["blocks.1"])
    with torch.no_grad():
        stream = dense.blocks[0](dense.first(x), scale=2.0)
        assert torch.allclose(slim(x), dense.head(dense.blocks[2](stream, scale=2.0)))
    proof = certify_dropped_blocks(dense, slim, [blocks[1]], x)
    assert proof.ok
    assert proof.kind == "dropped-blocks-float64"
    assert proof.max_rel_error < 1e-12


def test_a_model_that_lost_more_is_not_proven() -> None:
    dense, x = network(), torch.randn(2, 3)
    blocks = residual_blocks(dense, x)
    assert not certify_dropped_blocks(dense, without_blocks(dense, ["blocks.0", "blocks.1"]), [blocks[1]], x).ok


def test_a_classifier_that_starts_from_zero_is_proven_with_noise() -> None:
    dense, x = network(), torch.randn(2, 3)
    nn.init.zeros_(dense.head.weight)
    nn.init.zeros_(dense.head.bias)
    blocks = residual_blocks(dense, x)
    assert certify_dropped_blocks(dense, without_blocks(dense, ["blocks.1"]), [blocks[1]], x).ok


def test_names_of_other_modules_do_not_change() -> None:
    slim = without_blocks(dense := network(), ["blocks.1"])
    lost = dict(dense.named_parameters()).keys() - dict(slim.named_parameters()).keys()
    assert lost == {"blocks.1.layer.weight", "blocks.1.layer.bias"}


def test_a_name_is_inside_whole_names_only() -> None:
    assert is_inside("blocks.1.layer.weight", ["blocks.1"])
    assert is_inside("blocks.1", ["blocks.1"])
    assert not is_inside("blocks.10.layer.weight", ["blocks.1"])
