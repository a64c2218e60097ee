"""The loss whose gradients criteria use: that of the task, or without labels that of answers drawn from the model.

Without labels the divergence from the dense model's answers is zero before anything is removed, and so is its gradient.
Its second derivative is not: it is the Fisher information, the mean square of the gradient of `-log p(answer)` over
answers that the model's own distribution gives. For class scores the answer is drawn from the softmax; any other output
counts as the mean of a normal distribution with the spread of the output. Targets are drawn once for each batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from compressor.agreement import is_class_scores
from compressor.batches import output_batch_dims, with_dims
from compressor.core import BatchDims, ChannelGroup, Data
from compressor.criteria.base import ScoringContext
from compressor.criteria.gradient import writing_parameters
from compressor.execution.copies import copy_module
from compressor.execution.randomness import seeded_generator
from compressor.execution.unfreeze import unfreeze
from compressor.tensors import call_module, tree_leaves


def writers_and_losses(
    module: nn.Module, groups: Sequence[ChannelGroup], context: ScoringContext, batch_size: int, batches: int
) -> tuple[dict[str, nn.Parameter], Iterator[Tensor]]:
    """Copy a network in eval mode, and prepare the losses by which the copy's parameters are differentiated.

    Args:
        module: The network. It is not changed.
        groups: The groups of its channels.
        context: Data, seed and round.
        batch_size: Samples in a batch.
        batches: Number of batches at most.

    Returns:
        The copy's `writing_parameters`, and its `answer_losses`.
    """
    network = copy_module(module).eval()
    unfreeze(network)
    losses = answer_losses(network, context.training_data, batch_size, batches, context.seed, context.round)
    return writing_parameters(network, groups), losses


def answer_losses(
    module: nn.Module, data: Data, batch_size: int, batches: int, seed: int, epoch: int
) -> Iterator[Tensor]:
    """Yield the mean loss of each training batch, with labels where there are any.

    Args:
        module: The network, in the mode it is to run in.
        data: Its training samples are used.
        batch_size: Samples in a batch.
        batches: Number of batches at most.
        seed: Seed of the order of samples, and of the answers that are drawn.
        epoch: Index of the epoch.

    Returns:
        Scalars that can be differentiated.
    """
    generator = seeded_generator(seed, epoch)
    dims: BatchDims | None = None
    for number, (inputs, targets) in enumerate(islice(data.train_batches(batch_size, epoch=epoch, seed=seed), batches)):
        output = call_module(module, inputs)
        if data.task is not None:
            yield data.task.loss(output, targets, 0.0)
        else:
            if number == 0:
                dims = output_batch_dims(module, inputs, data.batch_dims)
            yield own_answer_loss(output, generator, data.num_classes, dims)


def own_answer_loss(
    output: Any, generator: torch.Generator, num_classes: int | None = None, output_dims: BatchDims | None = None
) -> Tensor:
    """Compute `-log p(answer)` for answers drawn from the output, the mean over samples.

    Args:
        output: What the model returns.
        generator: Draws the answers.
        num_classes: Classes that the outputs score; 0 = they are values, None = not known.
        output_dims: What `output_batch_dims` returns for the model.

    Returns:
        A scalar, the sum over all floating-point outputs with samples; a mean over samples is no answer.
    """
    losses = [
        _negative_log_likelihood(leaf.movedim(dim, 0), generator, num_classes, dim)
        for leaf, dim in with_dims(tree_leaves(output), output_dims)
        if leaf.requires_grad and leaf.ndim and dim is not None
    ]
    return torch.stack(losses).sum()


def _negative_log_likelihood(
    output: Tensor, generator: torch.Generator, num_classes: int | None, batch_dim: int
) -> Tensor:
    """The loss of one output, samples first; `batch_dim` is where the model has them."""
    scored = is_class_scores(output, num_classes, batch_dim)
    with torch.no_grad():
        if scored:
            probabilities = output.softmax(1).movedim(1, -1)
            labels = torch.multinomial(probabilities.reshape(-1, probabilities.shape[-1]), 1, generator=generator)
            answer = labels.reshape(probabilities.shape[:-1])
        else:
            spread = output.std().clamp_min(1e-12)
            answer = output + spread * torch.randn(output.shape, generator=generator)
    if scored:
        return torch.nn.functional.cross_entropy(output, answer)
    return ((output - answer) / spread).square().reshape(len(output), -1).sum(1).mean() / 2
