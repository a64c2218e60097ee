"""Penalties on the weights of one layer: what each adds to the gradient, and how strong it is when.

`weights` (N, ...) come with the N filters first, `leaving` (N,) says which of them go; row W_n in R^K holds all weights
of filter n. Gradients are in closed form: no graph is built, and nothing is larger than the weights or N x N.
Written with tensor methods only, so that reading a recipe does not load torch; functions of modules, so that every
process of a training can be handed them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# ---------------------------------------------------------------- pulls


def gram_sum(weights: Tensor, leaving: Tensor) -> Tensor:
    """Gradient of `1/2 |W W^T * (1 - m m^T)|_F^2`, m = 1 where a filter stays: `2 (W W^T * (1 - m m^T)) W`.

    Drives leaving filters to zero and to right angles with those that stay, which are not pulled against each other.
    Wang and Fu, Trainability Preserving Neural Pruning, ICLR 2023, arXiv:2207.12534.
    """
    rows = weights.flatten(1)
    gram = rows @ rows.mT
    stays = ~leaving
    gram.masked_fill_(stays[:, None] & stays, 0.0)
    return (gram @ rows).mul_(2).view_as(weights)


def gram_mean(weights: Tensor, leaving: Tensor) -> Tensor:
    """Gradient of `|W W^T * (1 - m m^T)|_F^2 / N^2`, the scale of the code that the paper's authors released."""
    return gram_sum(weights, leaving).mul_(2 / len(weights) ** 2)


def decay(weights: Tensor, leaving: Tensor) -> Tensor:
    """Gradient of `1/2 |W|_F^2`, whether a filter leaves or not."""
    return weights


def decay_pruned(weights: Tensor, leaving: Tensor) -> Tensor:
    """Gradient of `1/2 sum |W_n|^2` over the filters that leave.

    Wang, Qin, Zhang and Fu, Neural Pruning via Growing Regularization, ICLR 2021, arXiv:2012.09243.
    """
    return weights * _beside(leaving, weights)


def decay_kept(weights: Tensor, leaving: Tensor) -> Tensor:
    """Gradient of `1/2 sum |W_n|^2` over the filters that stay; at a negative strength they grow."""
    return weights * _beside(~leaving, weights)


def group_lasso(weights: Tensor, leaving: Tensor) -> Tensor:
    """Gradient of `sum |W_n|`, the Euclidean norm of each filter; 0 for a filter that is zero.

    Wen, Wu, Wang, Chen and Li, Learning Structured Sparsity in Deep Neural Networks, NeurIPS 2016, arXiv:1608.03665.
    """
    norms = weights.flatten(1).norm(dim=1)
    return weights * _beside(norms.reciprocal().masked_fill_(norms == 0, 0.0), weights)


def l1_norm(weights: Tensor, leaving: Tensor) -> Tensor:
    """Gradient of `sum |w|`, 0 where a weight is.

    On scales of normalisations it is network slimming: Liu et al., Learning Efficient Convolutional Networks through
    Network Slimming, ICCV 2017, arXiv:1708.06519.
    """
    return weights.sign()


def kernel_orthogonality(weights: Tensor, leaving: Tensor) -> Tensor:
    """Gradient of `|A^T A - I|_F`, A the tall one of W and W^T: `2 A (A^T A - I) / |A^T A - I|_F`.

    Xie, Xiong and Pu, All You Need is Beyond a Good Init, CVPR 2017, arXiv:1703.01827.
    """
    rows = weights.flatten(1)
    wide = rows.shape[0] < rows.shape[1]
    tall = rows.mT if wide else rows
    gram = tall.mT @ tall
    gram.diagonal().sub_(1.0)
    pulled = (tall @ _unit(gram)).mul_(2)
    return (pulled.mT if wide else pulled).reshape(weights.shape)


def convolution_orthogonality(weights: Tensor, leaving: Tensor) -> Tensor:
    """Gradient of `|conv(W, W) - I_0|_F`: filters against each other at every shift at which they overlap.

    I_0 is the identity at shift 0 and zero elsewhere. Shifts go by one pixel: by two, as in code that is around, a 3x3
    kernel never meets itself in place, and a perfect one is punished. Layers without extent have
    `kernel_orthogonality` instead. One matrix N x N for each shift.
    Wang, Chen, Chakraborty and Yu, Orthogonal Convolutional Neural Networks, CVPR 2020, arXiv:1911.12207.
    """
    if weights.ndim != 4 or weights.shape[2:].numel() == 1:
        return kernel_orthogonality(weights, leaving)
    from torch.nn.functional import conv2d, conv_transpose2d

    high, wide = (size - 1 for size in weights.shape[2:])
    overlap = conv2d(weights, weights, padding=(high, wide))
    overlap[:, :, high, wide].diagonal().sub_(1.0)
    # The overlap at a shift is the transpose of that at the opposite one: both factors are pulled alike.
    pulled: Tensor = conv_transpose2d(_unit(overlap), weights, padding=(high, wide))
    return pulled.mul_(2)


def _beside(per_filter: Tensor, weights: Tensor) -> Tensor:
    """(N,) with as many dimensions as the weights have."""
    return per_filter.view(-1, *(1,) * (weights.ndim - 1))


def _unit(matrix: Tensor) -> Tensor:
    """The matrix over its norm; zero stays zero."""
    size: Tensor = matrix.norm().clamp(min=1e-30)
    return matrix / size


# ---------------------------------------------------------------- strengths

# Lengths are published in iterations. A training of another length passes through the same strengths, faster or slower.

ZERO_INTERVAL = 100  # published iterations between the zeroing of one group and of the next


def strength_rise(growth: float, every: int, ceiling: float, start: float = 0.0) -> int:
    """Iterations from `start` to `ceiling` by `growth` every so many."""
    return every * math.ceil((ceiling - start) / growth - 1e-9)


def stepwise_growth(
    iteration: int,
    iterations: int,
    *,
    growth: float,
    every: int,
    ceiling: float,
    hold: int = 0,
    start: float = 0.0,
    scale: float = 1.0,
) -> float:
    """`scale * min(ceiling, start + growth * floor(t / every))`, t the published iteration: a rise, then a hold."""
    published = iteration * (strength_rise(growth, every, ceiling, start) + hold) // iterations
    return scale * min(ceiling, start + growth * (published // every))


def constant_strength(iteration: int, iterations: int, *, value: float) -> float:
    """The same value throughout."""
    return value


def zero_start(place: int, places: int, iterations: int, *, rise: int, hold: int) -> int:
    """Group i of n is zeroed (i + 1) * 100 published iterations after the rise; sooner where the hold is too short."""
    published = rise + (place + 1) * min(ZERO_INTERVAL, hold // (places + 1))
    return min(-(-published * iterations // (rise + hold)), iterations - 1)
