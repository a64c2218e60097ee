"""The task's metric on the test set."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from compressor.core import Metric
from compressor.errors import VerificationFailed
from compressor.execution.copies import copy_module
from compressor.tensors import to_float32, tree_leaves, tree_map
from compressor.training.memory import keep_freed_memory
from compressor.training.precision import LAYOUT

BATCH_SIZE = 64
"""Small batches with channels last stay in the cache: four times the images per second of 512 contiguous ones on a
ResNet-56."""


@torch.inference_mode()
def evaluate(module: nn.Module, batches: Iterable[tuple[Tensor, Any]], metric: Metric) -> float:
    """`metric` of a copy of `module`, in float32 on the device it is on, over all `batches` of (images, targets).

    Raises VerificationFailed when an answer is not finite.
    """
    keep_freed_memory()
    device = next((each.device for each in module.parameters()), torch.device("cpu"))
    module = copy_module(module).to(memory_format=LAYOUT).eval()
    seen, total = 0, torch.zeros((), dtype=torch.float64)
    for images, targets in batches:
        images, targets = images.to(device), tree_map(lambda each: each.to(device), targets)
        output = to_float32(module(images.contiguous(memory_format=LAYOUT)))
        if not all(bool(torch.isfinite(each).all()) for each in tree_leaves(output)):
            raise _not_finite(f"test images {seen} to {seen + len(images) - 1}", "answers are not finite numbers")
        total = total + metric.each(output, targets).cpu().double().sum(dim=0)
        seen += len(images)
    value = float(metric.total(total / seen))
    if not math.isfinite(value):
        raise _not_finite("test set", f"{metric.name} is {value}")
    return value


def _not_finite(where: str, found: str) -> VerificationFailed:
    return VerificationFailed(
        "evaluation/non-finite",
        where,
        f"the network's {found}",
        "check the checkpoint, or retrain with a smaller learning rate",
    )
