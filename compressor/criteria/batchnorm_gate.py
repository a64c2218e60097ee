"""Gate Decorator: the loss that closing a gate behind each normalization costs, batch by batch.

You, Yan, Ye, Ma and Wang, Gate Decorator: Global Filter Pruning Method for Accelerating Deep Convolutional Neural
Networks, NeurIPS 2019, arXiv:1909.08174. Their gate g takes the scale's place, and the shift is t / g.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

from compressor.core import Data, normalization_scales
from compressor.criteria.base import WEIGHTS_ONLY, ScoringContext

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressor.core import ChannelGroup, FloatArray


def gate_taylor(scale: Tensor, scale_grad: Tensor, shift: Tensor, shift_grad: Tensor) -> Tensor:
    """Estimate to first order what closing a gate costs that multiplies scale s and shift t: `|s dL/ds + t dL/dt|`.

    Args:
        scale: Scales of a normalization (N,).
        scale_grad: Gradients of the loss with respect to them (N,).
        shift: Its shifts (N,).
        shift_grad: Gradients of the loss with respect to them (N,).

    Returns:
        Scores of the gates (N,), which equal the paper's `|g dL/dg|`.
    """
    return (scale * scale_grad + shift * shift_grad).abs()


@dataclass(frozen=True, slots=True)
class BatchNormGateCriterion:
    """Score a channel by `gate_taylor`, summed over training batches and over all normalizations it passes through."""

    name: ClassVar[str] = "gates"
    needs_data: ClassVar[bool] = True

    batches: int | None = None  # None = all of an epoch
    batch_size: int = 128

    def score_channels(
        self, module: nn.Module, groups: Sequence[ChannelGroup], context: ScoringContext = WEIGHTS_ONLY
    ) -> Mapping[str, FloatArray]:
        """See `ChannelCriterion`.

        Args:
            module: The network; it runs in train mode.
            groups: The groups of its channels.
            context: Data, seed and round.

        Returns:
            Group name -> scores (C,). Groups whose channels pass no normalization are absent.
        """
        from compressor.criteria._aggregate import sum_over_norms

        return sum_over_norms(groups, gate_scores(module, self, context.training_data, context.seed, context.round))


def gate_scores(
    module: nn.Module, criterion: BatchNormGateCriterion, data: Data, seed: int, epoch: int = 0
) -> dict[str, Tensor]:
    """Sum `gate_taylor` of every normalization over training batches.

    Args:
        module: The network; a copy of it runs in train mode.
        criterion: The number and size of the batches.
        data: The batches are those of a training's epoch, never test images.
        seed: Seed of that training.
        epoch: Its epoch.

    Returns:
        Name of a norm scale -> scores (N,).
    """
    import torch

    from compressor.data.tasks import labelled_task
    from compressor.execution.copies import copy_module
    from compressor.execution.randomness import equal_randomness
    from compressor.execution.unfreeze import unfreeze

    network = copy_module(module).train()
    unfreeze(network)
    parameters = dict(network.named_parameters())
    pairs = {
        name: (parameters[name], parameters[f"{name.removesuffix('weight')}bias"])
        for name in normalization_scales(parameters)
    }
    total = {name: torch.zeros_like(scale) for name, (scale, _) in pairs.items()}
    task = labelled_task(data, f"criterion {criterion.name}")
    with equal_randomness(seed):
        batches = data.train_batches(criterion.batch_size, epoch=epoch, seed=seed)
        for images, targets in islice(batches, criterion.batches):
            loss = task.loss(network(images), targets, 0.0)
            tensors = [tensor for pair in pairs.values() for tensor in pair]
            gradients = torch.autograd.grad(loss, tensors, materialize_grads=True)
            with torch.no_grad():
                for (name, (scale, shift)), scale_grad, shift_grad in zip(
                    pairs.items(), gradients[::2], gradients[1::2], strict=True
                ):
                    total[name] += gate_taylor(scale, scale_grad, shift, shift_grad)
    return {name: scores.detach() for name, scores in total.items()}
