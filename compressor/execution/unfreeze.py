"""Turns on the gradients of parameters."""

from __future__ import annotations

from torch import nn


def unfreeze(module: nn.Module) -> None:
    """Give all parameters gradients: checkpoints may have frozen layers, but a pruned network adapts all of them."""
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
