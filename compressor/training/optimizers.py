"""Optimizers, and what they remember from one training to the next."""

from __future__ import annotations

import torch
from torch import nn

from compressor.core import Momentum, Optimizer


def make_optimizer(module: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """SGD decays every parameter, as the literature does; AdamW (arXiv:1711.05101) no bias and no normalisation."""
    parameters = list(module.parameters())
    if settings.name == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.nesterov,
            foreach=True,
        )
    groups = [
        {"params": [each for each in parameters if each.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.lr, foreach=True)


def momentum_of(module: nn.Module, optimizer: torch.optim.Optimizer) -> Momentum:
    """What the optimizer remembers of each parameter, by its name: (momentum_buffer) of SGD, (exp_avg, ...) of Adam."""
    return {
        name: {key: value.detach().cpu() for key, value in optimizer.state[parameter].items() if value is not None}
        for name, parameter in module.named_parameters()
        if parameter in optimizer.state
    }


def recall(module: nn.Module, optimizer: torch.optim.Optimizer, momentum: Momentum) -> None:
    """Give a new optimizer what `momentum_of` took from one of its kind; of another kind, nothing."""
    keys = {"momentum_buffer"} if isinstance(optimizer, torch.optim.SGD) else {"step", "exp_avg", "exp_avg_sq"}
    for name, parameter in module.named_parameters():
        remembered = momentum.get(name, {})
        if remembered.keys() == keys:
            optimizer.state[parameter] = {
                key: value.clone().to(parameter.device if value.ndim else "cpu") for key, value in remembered.items()
            }
