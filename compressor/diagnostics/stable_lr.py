"""The largest stable learning rate of a network, from the largest curvature of its loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from compressor.core import Data, StableLearningRate
from compressor.execution.copies import copy_module
from compressor.execution.randomness import equal_randomness
from compressor.execution.unfreeze import unfreeze
from compressor.training.train_settings import TrainSettings
from compressor.training.train_state import iterations_of

STEPS = 12  # of the power iteration; each costs less than an iteration of the training
MAX_SHARE = 0.02  # of the training's iterations that the estimate may cost


def stable_learning_rate(
    module: nn.Module, data: Data, settings: TrainSettings, seed: int
) -> StableLearningRate | None:
    """Estimate the learning rate at which gradient descent with momentum m is just stable.

    It is `2 (1 + m) / lambda`, and `2 (1 + m) / ((1 + 2 m) lambda)` with Nesterov momentum.
    lambda is the largest eigenvalue of the Hessian of the loss. Power iteration with Hessian-vector products from a
    random start gives a lower bound of it. Networks train well near this rate or slightly above it (Cohen et al.,
    Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability, ICLR 2021, arXiv:2103.00065), so the
    result is a hint and not a guarantee.

    Args:
        module: The network.
        data: The data. A quarter of the first batch is used, which takes no more memory than the training.
        settings: The settings of the training.
        seed: Seed of the batch and of the start.

    Returns:
        The learning rate; None if labels are not all of the loss, if it would cost over 2 % of the training, for
        optimizers other than SGD, whose steps are not multiples of the gradient, and if no curvature is positive.
    """
    _, iterations = iterations_of(settings, data)
    if data.task is None or settings.distill is not None:
        return None
    if settings.optimizer.name != "sgd" or MAX_SHARE * iterations < STEPS:
        return None
    batch_size = max(1, settings.batch_size // 4)
    images, targets = next(iter(data.train_batches(batch_size, epoch=0, seed=seed)))
    module = copy_module(module).train()
    unfreeze(module)
    parameters = list(module.parameters())
    # Fused attention has no second derivative. The seed makes dropout reproducible.
    with sdpa_kernel(SDPBackend.MATH), equal_randomness(seed):
        loss = data.task.loss(module(images), targets, settings.label_smoothing)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True, materialize_grads=True)
        largest = _largest_eigenvalue(gradients, parameters)
    if not math.isfinite(largest) or largest <= 0:
        return None
    momentum = settings.optimizer.momentum
    lookahead = 1 + 2 * momentum if settings.optimizer.nesterov else 1
    return StableLearningRate(2 * (1 + momentum) / (lookahead * largest), largest, len(images))


def _largest_eigenvalue(gradients: tuple[Tensor, ...], parameters: list[nn.Parameter]) -> float:
    """Compute the largest eigenvalue of the Hessian, the derivative of `gradients`.

    If the eigenvalue of largest magnitude is negative, the iteration is repeated with all eigenvalues shifted by it.
    """
    value = _power_iteration(gradients, parameters, shift=0.0)
    return value if value >= 0 else _power_iteration(gradients, parameters, shift=-value)


def _power_iteration(gradients: tuple[Tensor, ...], parameters: list[nn.Parameter], *, shift: float) -> float:
    """Compute the eigenvalue of the Hessian for which `eigenvalue + shift` has the largest magnitude."""
    vector = [torch.randn_like(parameter) for parameter in parameters]
    value = 0.0
    for _ in range(STEPS):
        length = _length(vector)
        if not 0 < length < math.inf:
            break
        vector = [part / length for part in vector]
        product = torch.autograd.grad(gradients, parameters, vector, retain_graph=True, materialize_grads=True)
        value = sum(float((a * b).sum()) for a, b in zip(product, vector, strict=True))
        vector = [a + shift * b for a, b in zip(product, vector, strict=True)]
    return value


def _length(vector: list[Tensor]) -> float:
    return math.sqrt(sum(float(part.double().square().sum()) for part in vector))
