"""Optimal Brain Damage with Hessian-vector products: the second-order change of the loss when a channel is removed.

    score of channel c = | 1/2 w_c^T H_cc w_c - g_c^T w_c |

with g and H the gradient and Hessian of the mean loss, and w_c the weights and biases that write the channel. All
w_c^T H_cc w_c are estimated at once: with signs e_c = +-1 drawn at random and v = sum_c e_c w_c, the mean of
e_c w_c^T (H v) is w_c^T H_cc w_c (Hutchinson, 1990). LeCun, Denker and Solla, Optimal Brain Damage, NeurIPS 1989.
Torch-Pruning's criterion of this name squares gradients of single samples instead, which is `fisher` here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.criteria.base import WEIGHTS_ONLY, ScoringContext

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressor.core import ChannelGroup, FloatArray

SIGNS = 500_000  # index of the signs' generator; those of drawn answers are indexed by epoch


@dataclass(frozen=True, slots=True)
class HessianVector:
    """Score a channel by the change of the loss to second order, with its own block of the Hessian."""

    name: ClassVar[str] = "hessian"
    needs_data: ClassVar[bool] = True

    batches: int = 16
    batch_size: int = 32

    def score_channels(
        self, module: nn.Module, groups: Sequence[ChannelGroup], context: ScoringContext = WEIGHTS_ONLY
    ) -> Mapping[str, FloatArray]:
        """See `ChannelCriterion`. New signs are drawn for every batch of every round.

        Args:
            module: The network; a copy runs in eval mode.
            groups: The groups of its channels.
            context: Data, seed and round.

        Returns:
            Group name -> scores (C,).
        """
        import numpy as np
        import torch
        from torch import nn
        from torch.nn.attention import SDPBackend, sdpa_kernel

        from compressor.criteria._aggregate import sum_over_writers
        from compressor.criteria._sampled_answers import writers_and_losses
        from compressor.execution.randomness import seeded_generator

        parameters, losses = writers_and_losses(module, groups, context, self.batch_size, self.batches)
        generator = seeded_generator(context.seed, context.round, SIGNS)
        scores = dict[str, "FloatArray"]()
        count = 0
        recurrent = any(isinstance(layer, nn.RNNBase) for layer in module.modules())
        fused = torch.backends.mkldnn.flags(enabled=False, allow_tf32=None) if recurrent else nullcontext()
        with sdpa_kernel(SDPBackend.MATH), fused:  # fused kernels cannot be differentiated twice
            for loss in losses:
                signs = {g.name: torch.randint(0, 2, (g.size,), generator=generator) * 2.0 - 1 for g in groups}
                vector = _signed_weights(parameters, groups, signs)
                tensors = list(parameters.values())
                gradients = torch.autograd.grad(
                    loss, tensors, create_graph=True, materialize_grads=True, allow_unused=True
                )
                along = torch.stack([(g * vector[name]).sum() for name, g in zip(parameters, gradients, strict=True)])
                products = torch.autograd.grad(along.sum(), tensors, materialize_grads=True, allow_unused=True)
                pairs = list(zip(parameters.items(), gradients, products, strict=True))
                first = {name: p.detach() * g.detach() for (name, p), g, _ in pairs}
                second = {name: p.detach() * h for (name, p), _, h in pairs}
                slopes = sum_over_writers(groups, first, signed=True)
                for name, curvature_C in sum_over_writers(groups, second, signed=True).items():
                    change_C = 0.5 * signs[name].double().numpy() * curvature_C - slopes[name]
                    scores[name] = scores.get(name, 0.0) + change_C
                count += 1
        return {name: np.abs(total / max(1, count)) for name, total in scores.items()}


def _signed_weights(
    parameters: Mapping[str, nn.Parameter], groups: Sequence[ChannelGroup], signs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Every parameter times the sign of the channel that it writes; zero where it writes none."""
    import torch

    vector = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for group in groups:
        if group.frozen is not None:
            continue
        for slot in group.writers():
            index, sign = torch.from_numpy(slot.positions).flatten(), signs[group.name]
            by_entry = sign.repeat_interleave(slot.positions.shape[1])
            weight = parameters[slot.tensor].detach().movedim(slot.dim, 0)
            target = vector[slot.tensor].movedim(slot.dim, 0)
            target[index] = weight[index] * by_entry.reshape(-1, *(1,) * (weight.ndim - 1))
            bias = slot.tensor.removesuffix("weight") + "bias"
            if bias in parameters and bias != slot.tensor:
                vector[bias][index] = parameters[bias].detach()[index] * by_entry
    return vector


hessian = HessianVector()
