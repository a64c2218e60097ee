"""New estimates of BatchNorm statistics, because surgery changes the inputs of each layer."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressor.training.training_memory import keep_freed_memory


@torch.no_grad()
def recalibrate_batchnorm(module: nn.Module, batches: Iterable[Tensor]) -> int:
    """Replace running statistics by the mean of the statistics of all batches, weighted by batch size.

    This is the precise BN of Wu and Johnson, arXiv:2105.07576. Parameters do not change, all other layers run in eval
    mode, and the module is left in eval mode.

    Args:
        module: The network.
        batches: Images (B, C, H, W).

    Returns:
        The number of BatchNorm layers.
    """
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.running_mean is not None]
    momenta = [norm.momentum for norm in norms]
    keep_freed_memory()
    module.eval()
    seen = 0
    try:
        for images in batches if norms else ():
            if len(images) < 2:
                continue  # a layer may have one value per channel for one image, which has no variance
            for norm in norms:
                if not seen:
                    norm.reset_running_stats()
                norm.train()
                norm.momentum = len(images) / (seen + len(images))  # a cumulative average
            seen += len(images)
            module(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        module.eval()
    return len(norms)
