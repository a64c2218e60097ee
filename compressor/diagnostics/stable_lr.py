"""How large a learning rate a network would stand: by the largest curvature of its loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from compressor.core import Data, StableLearningRate
from compressor.execution.copies import copy_module
from compressor.training.settings import TrainSettings
from compressor.training.state import iterations_of
from compressor.training.train_step import unfreeze

STEPS = 12  # of the power iteration; each costs less than an iteration of training
SHARE = 0.02  # of the training's iterations that the hint may cost


def stable_learning_rate(module: nn.Module, data: Data, step: TrainSettings, seed: int) -> StableLearningRate | None:
    """The largest learning rate at which gradient descent with the momentum m of `step` does not grow along the
    direction in which the loss bends most, `2 (1 + m) / lambda`.

    lambda is the largest eigenvalue of the Hessian of the loss on a quarter of the training's first batch, which takes
    no more memory than the training will, with the statistics of these images in BatchNorm. It is found by power
    iteration with Hessian-vector products from a random start, so it is a lower bound. Networks that train well work
    near this rate or a little above it (Cohen et al., Gradient Descent on Neural Networks Typically Occurs at the Edge
    of Stability, ICLR 2021, arXiv:2103.00065): a hint, and no promise.

    None without labels, where it would cost over 2 % of the training, for optimizers other than SGD, whose steps are no
    multiple of the gradient, and where the loss bends nowhere.
    """
    _, iterations = iterations_of(step, data)
    if data.task is None or step.optimizer.name != "sgd" or SHARE * iterations < STEPS:
        return None
    few = max(1, step.batch_size // 4)
    images, targets = next(iter(data.train_batches(few, epoch=0, seed=seed)))
    module = copy_module(module).train()
    unfreeze(module)
    parameters = list(module.parameters())
    # Fused attention has no second derivative; dropout draws the same numbers every time the run gets here.
    with sdpa_kernel(SDPBackend.MATH), torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        loss = data.task.loss(module(images), targets, step.label_smoothing)
        slopes = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True, materialize_grads=True)
        largest = _largest_eigenvalue(slopes, parameters)
    if not math.isfinite(largest) or largest <= 0:
        return None
    return StableLearningRate(2 * (1 + step.optimizer.momentum) / largest, largest, len(images))


def _largest_eigenvalue(slopes: tuple[Tensor, ...], parameters: list[nn.Parameter]) -> float:
    """Of the Hessian whose gradient is `slopes`. Where the largest by magnitude is negative, all are shifted by it and
    the largest of those found."""
    value = _power_iteration(slopes, parameters, shift=0.0)
    return value if value >= 0 else _power_iteration(slopes, parameters, shift=-value)


def _power_iteration(slopes: tuple[Tensor, ...], parameters: list[nn.Parameter], *, shift: float) -> float:
    """The eigenvalue of the Hessian for which `eigenvalue + shift` is largest by magnitude."""
    vector = [torch.randn_like(each) for each in parameters]
    value = 0.0
    for _ in range(STEPS):
        length = _length(vector)
        if not 0 < length < math.inf:
            break
        vector = [each / length for each in vector]
        product = torch.autograd.grad(slopes, parameters, vector, retain_graph=True, materialize_grads=True)
        value = sum(float((a * b).sum()) for a, b in zip(product, vector, strict=True))
        vector = [a + shift * b for a, b in zip(product, vector, strict=True)]
    return value


def _length(vector: list[Tensor]) -> float:
    return math.sqrt(sum(float(each.double().square().sum()) for each in vector))
