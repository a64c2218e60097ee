"""SR-STE: train all weights, run with the N:M largest of them, and pull the others towards zero.

Zhou et al., Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch, ICLR 2021, arXiv:2102.04010.
Their released code fixes the strength at 2e-4 and masks the stem too; strength and layers are the caller's here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from compressor.core import NMPattern
from compressor.sparsity.nm_masks import magnitude_mask


class _Refined(torch.autograd.Function):
    """w -> m w with m taken from w anew; backward g -> g + decay (1 - m) w, for every weight."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, pattern: NMPattern, decay: float) -> Tensor:
        mask = magnitude_mask(weight, pattern)
        ctx.save_for_backward(weight, mask)
        ctx.decay = decay
        return weight.masked_fill(~mask, 0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        weight, mask = ctx.saved_tensors
        return gradients[0] + ctx.decay * weight.masked_fill(mask, 0), None, None


class SparseRefined(nn.Module):
    """A weight's parametrization; its original keeps all values, and state dicts and optimizers see that."""

    def __init__(self, pattern: NMPattern, decay: float) -> None:
        super().__init__()
        self.pattern, self.decay = pattern, decay

    def forward(self, weight: Tensor) -> Tensor:
        found: Tensor = _Refined.apply(weight, self.pattern, self.decay)
        return found


@dataclass(frozen=True, slots=True)
class SRSTEState:
    """What training goes on from: the values of the masked weights before they were masked, by name."""

    pattern: NMPattern
    decay: float
    latent: Mapping[str, Tensor]


@contextmanager
def refined(module: nn.Module, regrow: SRSTEState) -> Iterator[None]:
    """While it lasts, the weights train as in SR-STE, from their latent values; then they stay masked."""
    layers = [module.get_submodule(name.rpartition(".")[0]) for name in regrow.latent]
    for layer, latent in zip(layers, regrow.latent.values(), strict=True):
        with torch.no_grad():
            layer.get_parameter("weight").copy_(latent)
        parametrize.register_parametrization(layer, "weight", SparseRefined(regrow.pattern, regrow.decay))
    try:
        yield
    finally:
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
