"""New estimates of BatchNorm statistics, because surgery changes the inputs of each layer."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressor.batches import batch_length
from compressor.core import BatchDims
from compressor.execution.copies import copy_module
from compressor.tensors import Inputs, call_module
from compressor.training.training_memory import keep_freed_memory


@torch.no_grad()
def recalibrate_batchnorm(module: nn.Module, batches: Iterable[Inputs], batch_dims: BatchDims | None = None) -> int:
    """Replace running statistics by the mean of the statistics of all batches, weighted by batch size.

    This is the precise BN of Wu and Johnson, arXiv:2105.07576. Parameters do not change, all other layers run in eval
    mode, and the module is left in eval mode.

    Args:
        module: The network.
        batches: Inputs of the network.
        batch_dims: Batch dimension of each input; None = the first of all.

    Returns:
        The number of BatchNorm layers.
    """
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.running_mean is not None]
    momenta = [norm.momentum for norm in norms]
    keep_freed_memory()
    module.eval()
    seen, count = dict.fromkeys(norms, 0), 0

    def _average(norm: _BatchNorm, _inputs: object) -> None:
        if not seen[norm]:
            norm.reset_running_stats()
        seen[norm] += count
        norm.momentum = count / seen[norm]  # a cumulative average over all calls: a forward may make several
        norm.train()

    hooks = [norm.register_forward_pre_hook(_average) for norm in norms]
    try:
        for inputs in batches if norms else ():
            count = batch_length(inputs, batch_dims)
            if count < 2:
                continue  # a layer may have one value per channel for one image, which has no variance
            call_module(module, inputs)
    finally:
        for norm, momentum, hook in zip(norms, momenta, hooks, strict=True):
            norm.momentum = momentum
            hook.remove()
        module.eval()
    return len(norms)


@torch.no_grad()
def interpolate_statistics(first: nn.Module, last: nn.Module, power: float) -> nn.Module:
    """Take statistics between those of two networks that differ in nothing else.

    Args:
        first: The network whose statistics have a power of 0.
        last: The network whose statistics have a power of 1.
        power: t. Variances are v (s / v)^t, means m + t (n - m).

    Returns:
        A copy of `first` with these statistics.
    """
    module = copy_module(first)
    for norm, other in zip(module.modules(), last.modules(), strict=True):
        if not isinstance(norm, _BatchNorm) or not isinstance(other, _BatchNorm):
            continue
        mean, var, other_mean, other_var = norm.running_mean, norm.running_var, other.running_mean, other.running_var
        if mean is None or var is None or other_mean is None or other_var is None:
            continue
        mean.lerp_(other_mean, power)
        var.copy_(torch.where(var > 0, var * (other_var / var).pow(power), other_var * power))
    return module
