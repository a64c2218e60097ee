"""BatchNorm statistics estimated anew, as surgery changes what each layer sees."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressor.training.memory import keep_freed_memory


@torch.no_grad()
def recalibrate_batchnorm(module: nn.Module, batches: Iterable[Tensor]) -> int:
    """Replace the running statistics by the mean over `batches` (B, C, H, W) of each batch's, weighted by B.

    No other layer is in training mode, no parameter changes; the module is left in eval mode. Returns the number of
    BatchNorm layers, 0 = nothing was done. This is the precise BN of Wu and Johnson, arXiv:2105.07576.
    """
    norms = [each for each in module.modules() if isinstance(each, _BatchNorm) and each.running_mean is not None]
    momenta = [norm.momentum for norm in norms]
    keep_freed_memory()
    module.eval()
    seen = 0
    try:
        for images in batches if norms else ():
            if len(images) < 2:
                continue  # one image has no variance where a layer sees a single position
            for norm in norms:
                if not seen:
                    norm.reset_running_stats()
                norm.train()
                norm.momentum = len(images) / (seen + len(images))  # makes the running average a cumulative one
            seen += len(images)
            module(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        module.eval()
    return len(norms)
