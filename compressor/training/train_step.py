"""One step of training: loss, gradients, constraints, optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from compressor.training.distributed.runtime import Runtime
from compressor.training.penalty import Constraint

LossFn = Callable[[Tensor, Tensor], Tensor]
"""images and targets of a batch -> the loss that is trained on and told, a scalar"""

Iterate = Callable[[Tensor, Tensor, int, float], float]
"""images, targets, number of the iteration, learning rate -> the objective before the step"""


def run_iteration(
    objective: LossFn,
    optimizer: torch.optim.Optimizer,
    constraints: Sequence[Constraint],
    clip: float | None,
    runtime: Runtime,
    scaler: torch.amp.GradScaler,
) -> Iterate:
    """The step of `optimizer` on `objective` plus the terms of `constraints`, mean over all processes.

    Gradients whose norm, over all weights together, is above `clip` are scaled down to it (Pascanu et al., ICML 2013,
    arXiv:1211.5063).

    Where the objective is not finite, its value is returned and nothing has been changed. Where a gradient that
    `scaler` has scaled is not, the optimizer's step is skipped, by all processes, and the next ones are scaled less.
    """
    parameters = [each for group in optimizer.param_groups for each in group["params"]]

    def iterate(images: Tensor, targets: Tensor, number: int, lr: float) -> float:
        loss = objective(*runtime.place((images, targets)))
        value = runtime.average(loss.detach().clone()).item()
        if not math.isfinite(value):
            return value
        for group in optimizer.param_groups:
            group["lr"] = lr
        for constraint in constraints:
            if (term := constraint.loss(number)) is not None:
                loss = loss + term
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(scaler.scale(loss))
        runtime.average_gradients(parameters)  # one that is not finite anywhere is so in all processes
        scaler.unscale_(optimizer)
        for constraint in constraints:
            constraint.after_backward(number)
        if clip is not None:
            clip_grad_norm_(parameters, clip)
        scaler.step(optimizer)
        scaler.update()
        for constraint in constraints:
            constraint.after_step(number)
        return value

    return iterate


def unfreeze(module: nn.Module) -> None:
    """Checkpoints come with frozen layers; a pruned network has to adapt all of them."""
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
