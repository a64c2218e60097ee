"""Weights written anew: at random, or made orthogonal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressor.errors import ModelError

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


@torch.no_grad()
def reinitialize(module: nn.Module, seed: int) -> None:
    """Random weights for the widths the module has now: every layer's own, He's for convolutions and linear layers.

    Kaiming normal over the fan-in with the gain of ReLU (He et al., arXiv:1502.01852). Raises ModelError for a
    parameter that belongs to no layer that can make it anew: left as it is, the network would not be untrained.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        for name, each in module.named_modules():
            if callable(reset := getattr(each, "reset_parameters", None)):
                reset()
                if isinstance(each, WEIGHTED):
                    nn.init.kaiming_normal_(each.weight, nonlinearity="relu")
            elif own := [own for own, _ in each.named_parameters(recurse=False)]:
                problem = f"{type(each).__name__} has no reset_parameters for {', '.join(own)}"
                raise ModelError(
                    "random-weights/no-reset-parameters", name or "the model", problem, "add this method to the class"
                )


@torch.no_grad()
def orthogonalize(module: nn.Module, gain: float) -> None:
    """Every convolution's and linear layer's filters, as rows, become `gain` times an orthogonal matrix (OrthP).

    `Q diag(sign diag R)` of the QR decomposition of the rows, or of their transpose where there are fewer rows than
    columns. Wang et al., arXiv:2105.05916.
    """
    for each in module.modules():
        if isinstance(each, WEIGHTED):
            each.weight.copy_(gain * orthogonal(each.weight.flatten(1)).view(each.weight.shape))


def orthogonal(rows: Tensor) -> Tensor:
    """The orthogonal factor of the matrix, or of its transpose when it is wide, transposed back."""
    if rows.shape[0] < rows.shape[1]:
        return orthogonal(rows.mT).mT
    factors: tuple[Tensor, Tensor] = torch.linalg.qr(rows)
    return factors[0] * factors[1].diagonal().sign()
