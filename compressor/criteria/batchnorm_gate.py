"""What the gates behind normalisations matter for, batch by batch."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor, nn

from compressor.core import BatchNormGateCriterion, Data, normalization_scales
from compressor.data.tasks import labelled_task
from compressor.training.train_step import unfreeze


def gate_scores(
    module: nn.Module, gates: BatchNormGateCriterion, data: Data, seed: int, *, epoch: int = 0
) -> dict[str, Tensor]:
    """Name of a scale -> what the gates of its normalisation matter for, summed over batches (N,). `module` stays as it
    is.

    The batches are those of that epoch of a training with that seed; never those of the test set.
    """
    own = copy.deepcopy(module).train()
    unfreeze(own)
    parameters = dict(own.named_parameters())
    pairs = {
        name: (parameters[name], parameters[f"{name.removesuffix('weight')}bias"])
        for name in normalization_scales(parameters)
    }
    total = {name: torch.zeros_like(scale) for name, (scale, _) in pairs.items()}
    asked = [each for pair in pairs.values() for each in pair]
    task = labelled_task(data, f"criterion {gates.name}")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        batches = data.train_batches(gates.batch_size, epoch=epoch, seed=seed)
        for images, targets in itertools.islice(batches, gates.batches):
            loss = task.loss(own(images), targets, 0.0)
            found = torch.autograd.grad(loss, asked, materialize_grads=True)
            with torch.no_grad():
                for (name, (scale, shift)), by_scale, by_shift in zip(
                    pairs.items(), found[::2], found[1::2], strict=True
                ):
                    total[name] += gates.value(scale, by_scale, shift, by_shift)
    return {name: each.detach() for name, each in total.items()}
