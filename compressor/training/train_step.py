"""One step of training: loss, gradients, constraints, optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from compressor.training.distributed.runtime import Runtime
from compressor.training.penalty import Constraint

LossFn = Callable[[Tensor, Tensor], Tensor]
"""images and targets of a batch -> the loss that is minimized and logged, a scalar"""

Iterate = Callable[[Tensor, Tensor, int, float], float]
"""images, targets, index of the iteration, learning rate -> the loss before the step"""


def make_iteration(
    loss_fn: LossFn,
    optimizer: torch.optim.Optimizer,
    constraints: Sequence[Constraint],
    clip: float | None,
    runtime: Runtime,
    scaler: torch.amp.GradScaler,
) -> Iterate:
    """Make the function that does one iteration.

    It steps on the loss, averaged over all processes. If the loss is not finite, nothing is changed. If a scaled
    gradient is not finite, all processes skip the step and the scale is reduced.

    Args:
        loss_fn: The loss of a batch.
        optimizer: Steps on all parameters.
        constraints: Act on gradients and weights.
        clip: Maximum norm of all gradients together; larger ones are scaled down (Pascanu et al., ICML 2013,
            arXiv:1211.5063).
        runtime: The device and the processes.
        scaler: Scales the loss in float16.

    Returns:
        The function. It returns the loss before the step.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def _iterate(images: Tensor, targets: Tensor, iteration: int, lr: float) -> float:
        loss = loss_fn(*runtime.to_device((images, targets)))
        value = runtime.average(loss.detach().clone()).item()
        if not math.isfinite(value):
            return value
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(scaler.scale(loss))
        runtime.average_gradients(parameters)  # not finite in one process = in all
        scaler.unscale_(optimizer)
        for constraint in constraints:
            constraint.after_backward(iteration)
        if clip is not None:
            clip_grad_norm_(parameters, clip)
        scaler.step(optimizer)
        scaler.update()
        for constraint in constraints:
            constraint.after_step(iteration)
        return value

    return _iterate
