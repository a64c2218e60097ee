"""Formulas of gradient criteria: the score of a weight from its value, its gradient and the product of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def snip(w: Tensor, g: Tensor, h: Tensor) -> Tensor:
    """Score a weight by `w g`, the derivative of the loss with respect to a gate on w (SNIP).

    Lee, Ajanthan and Torr, SNIP: Single-shot Network Pruning based on Connection Sensitivity, ICLR 2019,
    arXiv:1810.02340; summed over a channel: Verdenius, Stol and Forré, arXiv:2006.00896 (SNAP).

    Args:
        w: Weights.
        g: Gradients of the loss with respect to them.
        h: Not used.

    Returns:
        Signed scores in the shape of w.
    """
    return w * g


def crop(w: Tensor, g: Tensor, h: Tensor) -> Tensor:
    """Score a weight by `w h`: to first order, the gradient flow `g g` that is lost without w (CroP).

    Rachwan, Zügner, Charpentier, Geisler, Ayle and Günnemann, Winning the Lottery Ahead of Time, ICML 2022,
    arXiv:2206.10451.

    Args:
        w: Weights.
        g: Not used.
        h: The Hessian's product with the gradient, `H g`.

    Returns:
        Signed scores in the shape of w.
    """
    return w * h


def crop_gated(w: Tensor, g: Tensor, h: Tensor) -> Tensor:
    """Score a weight by `w h + g g`: CroP's released code, which differentiates <G, dL/dW> with respect to a gate.

    Args:
        w: Weights.
        g: Gradients of the loss with respect to them.
        h: The Hessian's product with the gradient, `H g`.

    Returns:
        Signed scores in the shape of w.
    """
    return w * h + g * g
