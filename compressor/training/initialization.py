"""New values for the weights of a network: random, or orthogonal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressor.errors import ModelError
from compressor.execution.randomness import equal_randomness
from compressor.layers import WEIGHTED_LAYERS


@torch.no_grad()
def reinitialize(module: nn.Module, seed: int) -> None:
    """Draw random weights for the present widths of a network, in place.

    Each layer is reset by its own `reset_parameters`. Weights of convolutions and linear layers are then drawn from the
    Kaiming normal distribution over the fan-in with the gain of ReLU (He et al., arXiv:1502.01852).

    Args:
        module: The network.
        seed: Seed of the weights.

    Raises:
        ModelError: A layer with parameters has no `reset_parameters`, so that it would keep trained weights.
    """
    with equal_randomness(seed):
        for name, layer in module.named_modules():
            if callable(reset := getattr(layer, "reset_parameters", None)):
                reset()
                if isinstance(layer, WEIGHTED_LAYERS):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            elif parameters := [parameter for parameter, _ in layer.named_parameters(recurse=False)]:
                place = name or "the model"
                problem = f"{type(layer).__name__} has no reset_parameters for {', '.join(parameters)}"
                hint = "add this method to the class"
                raise ModelError("random-weights/no-reset-parameters", place, problem, hint)


@torch.no_grad()
def orthogonalize(module: nn.Module, gain: float) -> None:
    """Replace the filters of every convolution and linear layer, as rows, by `gain` times an orthogonal matrix (OrthP).

    It is `Q diag(sign diag R)` of the QR decomposition of the rows, or of their transpose if there are fewer rows than
    columns. Wang et al., arXiv:2105.05916.

    Args:
        module: The network, changed in place.
        gain: Norm of the new rows.
    """
    for layer in module.modules():
        if isinstance(layer, WEIGHTED_LAYERS):
            layer.weight.copy_(gain * orthogonal(layer.weight.flatten(1)).view(layer.weight.shape))


def orthogonal(rows: Tensor) -> Tensor:
    """Return the orthogonal factor of a matrix; that of a wide matrix is computed of its transpose."""
    if rows.shape[0] < rows.shape[1]:
        return orthogonal(rows.mT).mT
    factors: tuple[Tensor, Tensor] = torch.linalg.qr(rows)
    return factors[0] * factors[1].diagonal().sign()
