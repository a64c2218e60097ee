"""The metric of a task, over the test set or over images that choices may be made by."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from compressor.core import Data, Metric
from compressor.errors import VerificationFailed
from compressor.execution.copies import copy_module
from compressor.tensors import to_float32, tree_leaves, tree_map
from compressor.training.precision import LAYOUT
from compressor.training.training_memory import keep_freed_memory

BATCH_SIZE = 64
"""Small batches in channels last fit in the cache: on a ResNet-56, four times the images per second of 512 contiguous
images."""

SAMPLE = 2048
"""Training images on which the metric is computed if none are held out."""


@torch.inference_mode()
def evaluate(module: nn.Module, batches: Iterable[tuple[Tensor, Any]], metric: Metric, split: str = "test") -> float:
    """Compute a metric in float32, on a copy of the module on its device.

    Args:
        module: The network.
        batches: Images (B, C, H, W) and targets.
        metric: The metric.
        split: What the images are, for messages: test, held-out or training.

    Returns:
        The metric over all batches.

    Raises:
        VerificationFailed: An output or the metric is not finite.
    """
    keep_freed_memory()
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    module = copy_module(module).to(memory_format=LAYOUT).eval()
    count, total = 0, torch.zeros((), dtype=torch.float64)
    for images, targets in batches:
        images, targets = images.to(device), tree_map(lambda leaf: leaf.to(device), targets)
        output = to_float32(module(images.contiguous(memory_format=LAYOUT)))
        if not all(bool(torch.isfinite(leaf).all()) for leaf in tree_leaves(output)):
            raise _not_finite(f"{split} images {count} to {count + len(images) - 1}", "outputs are not finite numbers")
        total = total + metric.update(output, targets).cpu().double().sum(dim=0)
        count += len(images)
    value = float(metric.compute(total / count))
    if not math.isfinite(value):
        raise _not_finite(f"{split} set", f"{metric.name} is {value}")
    return value


def validation_metric(module: nn.Module, data: Data) -> dict[str, float]:
    """Compute the metric of the task on images that choices may be made by.

    Args:
        module: The network.
        data: The data.

    Returns:
        `held_out`: the metric on the held-out split; or if there is none `train_sample`: the metric on training images
        without augmentation. Empty for data without labels.
    """
    if data.task is None:
        return {}
    metric = data.task.metric
    if data.has_holdout:
        return {"held_out": evaluate(module, data.holdout_batches(BATCH_SIZE), metric, "held-out")}
    return {"train_sample": evaluate(module, data.sample_batches(BATCH_SIZE, images=SAMPLE), metric, "training")}


def _not_finite(place: str, problem: str) -> VerificationFailed:
    hint = "check the checkpoint, or retrain with a smaller learning rate"
    return VerificationFailed("evaluation/non-finite", place, f"the network's {problem}", hint)
