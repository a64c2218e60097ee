"""Criteria: rows (N, K) of the weights that write N channels -> a score (N,); the lowest goes first.

Written with tensor methods only, so that reading a recipe does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def l1(rows_NK: Tensor) -> Tensor:
    """Mean absolute weight of each filter, `mean_k |w_nk|`.

    The mean instead of the sum leaves the order within a layer as it is and takes the fan-in out of comparisons
    between layers. Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, arXiv:1608.08710.
    """
    return rows_NK.abs().mean(dim=1)


def crop(w: Tensor, g: Tensor, h: Tensor) -> Tensor:
    """`w h`, to first order what removing w takes from the gradient flow g g (CroP).

    Rachwan, Zügner, Charpentier, Geisler, Ayle and Günnemann, Winning the Lottery Ahead of Time, ICML 2022,
    arXiv:2206.10451.
    """
    return w * h


def gate_taylor(scale: Tensor, by_scale: Tensor, shift: Tensor, by_shift: Tensor) -> Tensor:
    """`|s dL/ds + t dL/dt|`: to first order what shutting a gate costs that multiplies scale s and shift t.

    You, Yan, Ye, Ma and Wang, Gate Decorator: Global Filter Pruning Method for Accelerating Deep Convolutional Neural
    Networks, NeurIPS 2019, arXiv:1909.08174, whose gate g takes the scale's place, the shift being t / g: `|g dL/dg|`.
    """
    return (scale * by_scale + shift * by_shift).abs()


def crop_gated(w: Tensor, g: Tensor, h: Tensor) -> Tensor:
    """`w h + g g`: what the released code of the same paper computes, a gate's derivative of <G, dL/dW> at 1."""
    return w * h + g * g


def snip(w: Tensor, g: Tensor, h: Tensor) -> Tensor:
    """`w g`, the derivative of the loss to a gate on w (SNIP).

    Lee, Ajanthan and Torr, SNIP: Single-shot Network Pruning based on Connection Sensitivity, ICLR 2019,
    arXiv:1810.02340; summed over a channel: Verdenius, Stol and Forré, arXiv:2006.00896 (SNAP).
    """
    return w * g


def synflow(w: Tensor, slope: Tensor) -> Tensor:
    """`w dR/dw`, what of the flow R goes through each weight (SynFlow).

    Tanaka, Kunin, Yamins and Ganguli, Pruning neural networks without any data by iteratively conserving synaptic flow,
    NeurIPS 2020, arXiv:2006.05467.
    """
    return w * slope


def magnitude(weight: Tensor) -> Tensor:
    """`|w|`. Han, Pool, Tran and Dally, Learning both Weights and Connections, NeurIPS 2015, arXiv:1506.02626."""
    return weight.abs()


def random_filter_scores(rows_NK: Tensor) -> Tensor:
    """A uniform random number in [0, 1) for every filter."""
    return rows_NK.new_empty(len(rows_NK)).uniform_()


def random_weight_scores(weight: Tensor) -> Tensor:
    """A uniform random number in [0, 1) for every weight."""
    return weight.new_empty(weight.shape).double().uniform_()
