"""Penalties on the weights of one layer: the gradient of each, and its strength over the iterations.

W_n in R^K is the row of all K weights of filter n. Gradients are in closed form: no graph is built, and no tensor is
larger than the weights or N x N. They use only methods of tensors, so that a recipe can be read without torch, and are
functions of this module, so that they can be sent to every process of a training.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# ---------------------------------------------------------------- gradients


def gram_sum(weights: Tensor, pruned: Tensor) -> Tensor:
    """Penalty `1/2 |W W^T * (1 - m m^T)|_F^2`, m = 1 for kept filters and 0 for pruned ones.

    It drives pruned filters to zero and makes them orthogonal to the kept ones, which have no penalty among themselves.
    Wang and Fu, Trainability Preserving Neural Pruning, ICLR 2023, arXiv:2207.12534.

    Args:
        weights: W (N, ...), filters first.
        pruned: Which filters will be removed, bool (N,).

    Returns:
        The gradient `2 (W W^T * (1 - m m^T)) W`, (N, ...).
    """
    rows = weights.flatten(1)
    gram = rows @ rows.mT
    kept = ~pruned
    gram.masked_fill_(kept[:, None] & kept, 0.0)
    return (gram @ rows).mul_(2).view_as(weights)


def gram_mean(weights: Tensor, pruned: Tensor) -> Tensor:
    """Penalty `|W W^T * (1 - m m^T)|_F^2 / N^2`, the scale in the code that the authors of `gram_sum` released.

    Args:
        weights: W (N, ...), filters first.
        pruned: Which filters will be removed, bool (N,).

    Returns:
        The gradient, (N, ...).
    """
    return gram_sum(weights, pruned).mul_(2 / len(weights) ** 2)


def decay(weights: Tensor, pruned: Tensor) -> Tensor:
    """Penalty `1/2 |W|_F^2` on all filters.

    Args:
        weights: W (N, ...), filters first.
        pruned: Not used.

    Returns:
        The gradient W, (N, ...).
    """
    return weights


def decay_pruned(weights: Tensor, pruned: Tensor) -> Tensor:
    """Penalty `1/2 sum |W_n|^2` over the filters that will be removed.

    Wang, Qin, Zhang and Fu, Neural Pruning via Growing Regularization, ICLR 2021, arXiv:2012.09243.

    Args:
        weights: W (N, ...), filters first.
        pruned: Which filters will be removed, bool (N,).

    Returns:
        The gradient, (N, ...).
    """
    return weights * _per_filter(pruned, weights)


def decay_kept(weights: Tensor, pruned: Tensor) -> Tensor:
    """Penalty `1/2 sum |W_n|^2` over the filters that are kept. With a negative strength these filters grow.

    Args:
        weights: W (N, ...), filters first.
        pruned: Which filters will be removed, bool (N,).

    Returns:
        The gradient, (N, ...).
    """
    return weights * _per_filter(~pruned, weights)


def group_lasso(weights: Tensor, pruned: Tensor) -> Tensor:
    """Penalty `sum |W_n|`, the Euclidean norm of each filter.

    Wen, Wu, Wang, Chen and Li, Learning Structured Sparsity in Deep Neural Networks, NeurIPS 2016, arXiv:1608.03665.

    Args:
        weights: W (N, ...), filters first.
        pruned: Not used.

    Returns:
        The gradient `W_n / |W_n|`, (N, ...); 0 for a filter that is zero.
    """
    norms = weights.flatten(1).norm(dim=1)
    return weights * _per_filter(norms.reciprocal().masked_fill_(norms == 0, 0.0), weights)


def l1_norm(weights: Tensor, pruned: Tensor) -> Tensor:
    """Penalty `sum |w|`.

    On the scales of normalizations it is network slimming: Liu et al., Learning Efficient Convolutional Networks
    through Network Slimming, ICCV 2017, arXiv:1708.06519.

    Args:
        weights: Any shape.
        pruned: Not used.

    Returns:
        The gradient `sign(w)`, 0 for a weight that is zero.
    """
    return weights.sign()


def kernel_orthogonality(weights: Tensor, pruned: Tensor) -> Tensor:
    """Penalty `|A^T A - I|_F`, A the one of W and W^T that has more rows than columns.

    Xie, Xiong and Pu, All You Need is Beyond a Good Init, CVPR 2017, arXiv:1703.01827.

    Args:
        weights: W (N, ...), filters first.
        pruned: Not used.

    Returns:
        The gradient `2 A (A^T A - I) / |A^T A - I|_F`, (N, ...).
    """
    rows = weights.flatten(1)
    wide = rows.shape[0] < rows.shape[1]
    tall = rows.mT if wide else rows
    gram = tall.mT @ tall
    gram.diagonal().sub_(1.0)
    gradient = (tall @ _normalized(gram)).mul_(2)
    return (gradient.mT if wide else gradient).reshape(weights.shape)


def convolution_orthogonality(weights: Tensor, pruned: Tensor) -> Tensor:
    """Penalty `|conv(W, W) - I_0|_F`: products of the filters at every shift at which they overlap.

    I_0 is the identity at shift 0 and zero elsewhere. Shifts are single pixels. With shifts of two pixels, as in other
    implementations, a 3x3 kernel never meets itself in place, and a perfect one is penalized. Layers without a spatial
    extent get `kernel_orthogonality`. One N x N matrix is computed for each shift.
    Wang, Chen, Chakraborty and Yu, Orthogonal Convolutional Neural Networks, CVPR 2020, arXiv:1911.12207.

    Args:
        weights: W (N, C, kh, kw) of a convolution, or of another layer.
        pruned: Not used.

    Returns:
        The gradient, in the shape of the weights.
    """
    if weights.ndim != 4 or weights.shape[2:].numel() == 1:
        return kernel_orthogonality(weights, pruned)
    from torch.nn.functional import conv2d, conv_transpose2d

    high, wide = (size - 1 for size in weights.shape[2:])
    overlap = conv2d(weights, weights, padding=(high, wide))
    overlap[:, :, high, wide].diagonal().sub_(1.0)
    # The overlap at a shift is the transpose of the overlap at the opposite one: both factors have the same gradient.
    gradient: Tensor = conv_transpose2d(_normalized(overlap), weights, padding=(high, wide))
    return gradient.mul_(2)


def _per_filter(factors: Tensor, weights: Tensor) -> Tensor:
    """(N,) in as many dimensions as the weights have."""
    return factors.view(-1, *(1,) * (weights.ndim - 1))


def _normalized(matrix: Tensor) -> Tensor:
    """The matrix divided by its norm; zero remains zero."""
    size: Tensor = matrix.norm().clamp(min=1e-30)
    return matrix / size


# ---------------------------------------------------------------- strengths

# Lengths are published in iterations. For a training of another length the schedule of strengths is stretched.

ZERO_INTERVAL = 100
"""Published iterations between the zeroing of one group and of the next."""


def growth_iterations(growth: float, interval: int, ceiling: float, start: float = 0.0) -> int:
    """Compute the iterations that a strength needs to grow to its ceiling.

    Args:
        growth: What each update adds.
        interval: Iterations between updates.
        ceiling: The strength at which the growth ends.
        start: The strength at the beginning.

    Returns:
        The number of iterations.
    """
    return interval * math.ceil((ceiling - start) / growth - 1e-9)


def stepwise_growth(
    iteration: int,
    iterations: int,
    *,
    growth: float,
    interval: int,
    ceiling: float,
    hold: int = 0,
    start: float = 0.0,
    scale: float = 1.0,
) -> float:
    """Compute `scale * min(ceiling, start + growth * floor(t / interval))`, t the published iteration.

    Args:
        iteration: The iteration of this training, from 0.
        iterations: The length of this training.
        growth: What each update adds.
        interval: Published iterations between updates.
        ceiling: The strength at which the growth ends.
        hold: Published iterations at the ceiling.
        start: The strength at the beginning.
        scale: Factor on the result.

    Returns:
        The strength.
    """
    published = iteration * (growth_iterations(growth, interval, ceiling, start) + hold) // iterations
    return scale * min(ceiling, start + growth * (published // interval))


def constant_strength(iteration: int, iterations: int, *, value: float) -> float:
    """Return the same strength in every iteration.

    Args:
        iteration: Not used.
        iterations: Not used.
        value: The strength.

    Returns:
        `value`.
    """
    return value


def zero_start(index: int, groups: int, iterations: int, *, growth: int, hold: int) -> int:
    """Compute the iteration from which the pruned channels of a group are held at zero.

    Group i of n is zeroed (i + 1) * 100 published iterations after the growth, or sooner if the hold is too short.

    Args:
        index: The index i of the group, from 0.
        groups: The number n of groups.
        iterations: The length of this training.
        growth: Published iterations in which the strength grows.
        hold: Published iterations at the ceiling.

    Returns:
        The iteration of this training.
    """
    published = growth + (index + 1) * min(ZERO_INTERVAL, hold // (groups + 1))
    return min(-(-published * iterations // (growth + hold)), iterations - 1)
