"""SR-STE: train all weights, compute with the N largest of every M, and pull the others towards zero.

Zhou et al., Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch, ICLR 2021, arXiv:2102.04010.
The released code fixes the strength at 2e-4 and masks the stem too. Here the caller chooses strength and layers.
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
from compressor.sparsity.nm_masks import magnitude_mask, values_behind_mask


class _Refined(torch.autograd.Function):
    """Forward m * w with the mask m of the current w; backward g + decay * (1 - m) * w for every weight."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, pattern: NMPattern, decay: float) -> Tensor:
        """Mask a weight.

        Args:
            ctx: Keeps what `backward` needs.
            weight: w (K, C, *).
            pattern: N and M.
            decay: Strength of the pull towards zero.

        Returns:
            m * w, (K, C, *).
        """
        mask = magnitude_mask(weight, pattern)
        ctx.save_for_backward(weight, mask)
        ctx.decay = decay
        return weight.masked_fill(~mask, 0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        weight, mask = ctx.saved_tensors
        return gradients[0] + ctx.decay * weight.masked_fill(mask, 0), None, None


class SparseRefined(nn.Module):
    """The parametrization of a weight. State dicts and optimizers see its original, which keeps all values."""

    def __init__(self, pattern: NMPattern, decay: float) -> None:
        super().__init__()
        self.pattern, self.decay = pattern, decay

    def forward(self, weight: Tensor) -> Tensor:
        masked: Tensor = _Refined.apply(weight, self.pattern, self.decay)
        return masked


@dataclass(frozen=True, slots=True)
class SRSTEState:
    """The state that training continues from. `dense`: values of the weights before masking, by name."""

    pattern: NMPattern
    decay: float
    dense: Mapping[str, Tensor]


@contextmanager
def train_with_sr_ste(module: nn.Module, regrow: SRSTEState, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """While the block runs, train the weights as in SR-STE. Then mask them for good.

    Kept weights begin with the values that they have, which may be those of a reconstruction, and masked ones with the
    values that they had before.

    Args:
        module: The network, changed in place.
        regrow: Pattern, strength, and the values before masking.
        masks: True for kept weights, by name.
    """
    layers = [module.get_submodule(name.rpartition(".")[0]) for name in regrow.dense]
    for layer, (name, dense) in zip(layers, regrow.dense.items(), strict=True):
        weight = layer.get_parameter("weight")
        with torch.no_grad():
            weight.copy_(values_behind_mask(weight, masks[name], dense, regrow.pattern))
        parametrize.register_parametrization(layer, "weight", SparseRefined(regrow.pattern, regrow.decay))
    try:
        yield
    finally:
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
