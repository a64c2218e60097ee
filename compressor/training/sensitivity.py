"""What every weight matters for: gradients of the loss on training batches, and their product with its Hessian."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from operator import itemgetter
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from compressor.core import Data, Saliency
from compressor.training.initialise import WEIGHTED
from compressor.training.iteration import everything_trains
from compressor.training.nested import mapped
from compressor.training.tasks import main

NUMBERS = 1 << 20  # of the input that go through the network at a time: second derivatives keep all they meet


def sensitivities(
    module: nn.Module,
    saliency: Saliency,
    data: Data,
    seed: int,
    *,
    epoch: int = 0,
    masks: Mapping[str, Tensor] = MappingProxyType({}),
    weights: Mapping[str, Tensor] = MappingProxyType({}),
) -> dict[str, Tensor]:
    """Parameter name -> what each entry matters for, signed, for the weights and biases of all convolutions and linear
    layers. `module` stays as it is.

    The batches are the first of that epoch of a training with that seed; never those of the test set.

    With L_b the mean loss of batch b and W all weights without biases (Lubana and Dick, arXiv:2009.11839; Rachwan et
    al., Winning the Lottery Ahead of Time, ICML 2022, arXiv:2206.10451):

        g = sum_b dL_b/dw        h = d/dw sum_b <G, dL_b/dW>,  G = sum_b dL_b/dW held fixed, so h = H G

    both for one layer's weights or bias w; where `order` is 2 a bias has g = 0, for it is no part of G. Batches go
    through in pieces whose results are added up, which changes nothing in eval mode but the memory it takes; while
    training BatchNorm sees whole batches.

    `masks`: where one is False, g counts as 0. `weights`: what counts as w, where that is not what the module has.
    """
    parameters = _weighted(module)
    was = {name: each.requires_grad for name, each in module.named_parameters()}
    mode = module.training
    module.train(saliency.training)
    everything_trains(module)
    buffers = {name: each.clone() for name, each in module.named_buffers()}
    try:
        # Fused attention has no second derivative.
        with sdpa_kernel(SDPBackend.MATH), torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            gradients = _gradients(module, parameters, saliency, data, seed, epoch)
            for name in gradients.keys() & masks.keys():
                gradients[name].masked_fill_(~masks[name], 0)
            products = {name: torch.zeros_like(each) for name, each in parameters.items()}
            if saliency.order == 2:
                gradients = {name: each if _is_weight(name, each) else each.zero_() for name, each in gradients.items()}
                products = _products(module, parameters, gradients, saliency, data, seed, epoch)
    finally:
        module.train(mode)
        for name, each in module.named_parameters():
            each.requires_grad_(was[name])
        for name, buffer in module.named_buffers():
            buffer.copy_(buffers[name])
    with torch.no_grad():
        return {
            name: saliency.value(weights.get(name, each.detach()), gradients[name], products[name])
            for name, each in parameters.items()
        }


def _weighted(module: nn.Module) -> dict[str, nn.Parameter]:
    """Weights and biases of convolutions and linear layers, each once."""
    found: dict[str, nn.Parameter] = {}
    for name, each in module.named_modules():
        if isinstance(each, WEIGHTED):
            found |= {f"{name}.{own}".lstrip("."): value for own, value in each.named_parameters(recurse=False)}
    known = {id(each): name for name, each in reversed(found.items())}
    return {name: each for name, each in found.items() if known[id(each)] == name}


def _is_weight(name: str, value: Tensor) -> bool:
    return value.dim() > 1


def _gradients(
    module: nn.Module, parameters: Mapping[str, nn.Parameter], saliency: Saliency, data: Data, seed: int, epoch: int
) -> dict[str, Tensor]:
    total = {name: torch.zeros_like(each) for name, each in parameters.items()}
    for loss in _losses(module, saliency, data, seed, epoch):
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, each in zip(total, found, strict=True):
            if each is not None:
                total[name] += each
    return total


def _products(
    module: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    gradients: Mapping[str, Tensor],
    saliency: Saliency,
    data: Data,
    seed: int,
    epoch: int,
) -> dict[str, Tensor]:
    total = {name: torch.zeros_like(each) for name, each in parameters.items()}
    weights = {name: each for name, each in parameters.items() if _is_weight(name, each)}
    for loss in _losses(module, saliency, data, seed, epoch):
        slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True, allow_unused=True)
        along = [
            (slope * gradients[name]).sum() for name, slope in zip(weights, slopes, strict=True) if slope is not None
        ]
        found = torch.autograd.grad(torch.stack(along).sum(), list(parameters.values()), allow_unused=True)
        for name, each in zip(total, found, strict=True):
            if each is not None:
                total[name] += each
    return total


def _losses(module: nn.Module, saliency: Saliency, data: Data, seed: int, epoch: int) -> Iterator[Tensor]:
    """Losses that add up to the sum of the batches' means, one piece of a batch after another."""
    batches = data.train_batches(saliency.batch_size, epoch=epoch, seed=seed)
    for images, targets in itertools.islice(batches, saliency.batches):
        pieces = len(images) if saliency.training else max(1, NUMBERS // images[0].numel())
        for start in range(0, len(images), pieces):
            here = slice(start, start + pieces)
            some, theirs = images[here], mapped(itemgetter(here), targets)
            yield _loss(module(some), theirs, saliency, data) * (len(some) / len(images))


def _loss(output: Any, targets: Any, saliency: Saliency, data: Data) -> Tensor:
    if saliency.loss == "logit":
        return -main(output).gather(1, targets[:, None]).mean()
    if saliency.temperature != 1:
        output = mapped(lambda each: each / saliency.temperature, output)
    return data.task.loss(output, targets, 0.0)
