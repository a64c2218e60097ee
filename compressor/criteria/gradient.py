"""What every weight matters for: gradients of the loss on training batches, and their product with its Hessian."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from operator import itemgetter
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from compressor.core import Data, GradientCriterion
from compressor.data.tasks import labelled_task, primary_output
from compressor.errors import RecipeError
from compressor.tensors import tree_map
from compressor.training.initialization import WEIGHTED
from compressor.training.train_step import unfreeze

NUMBERS = 1 << 20  # of the input that go through the network at a time: second derivatives keep all they meet


def gradient_scores(
    module: nn.Module,
    saliency: GradientCriterion,
    data: Data,
    seed: int,
    *,
    epoch: int = 0,
    also: Collection[str] = (),
    masks: Mapping[str, Tensor] = MappingProxyType({}),
    weights: Mapping[str, Tensor] = MappingProxyType({}),
) -> dict[str, Tensor]:
    """Parameter name -> what each entry matters for, signed, for the weights and biases of all convolutions and linear
    layers. `module` stays as it is.

    The batches are the first of that epoch of a training with that seed; never those of the test set.

    With L_b the mean loss of batch b and W all weights without biases (Rachwan et al., Winning the Lottery Ahead
    of Time, ICML 2022, arXiv:2206.10451):

        g = sum_b dL_b/dw        h = d/dw sum_b <G, dL_b/dW>,  G = sum_b dL_b/dW held fixed, so h = H G

    both for one layer's weights or bias w; where `order` is 2 a bias has g = 0, for it is no part of G. Batches go
    through in pieces whose results are added up, which changes nothing in eval mode but the memory it takes; while
    training BatchNorm sees whole batches.

    `also`: other parameters that serve as such weights, in code of the module's own. `masks`: where one is False, g
    counts as 0. `weights`: what counts as w, where that is not what the module has.

    Raises RecipeError where the loss is that of the right class's answer and there are no classes.
    """
    if saliency.loss == "logit" and not data.num_classes:
        problem = f"{data.name} has no classes, but {saliency.name} scores by the logit of the correct class"
        raise RecipeError(
            "recipe/logit-without-classes", "data.task", problem, "set loss: task in the settings of the method"
        )
    own = copy.deepcopy(module).train(saliency.training)
    unfreeze(own)
    parameters = _weighted(own)
    parameters |= {name: own.get_parameter(name) for name in also if name not in parameters}

    def losses() -> Iterator[Tensor]:
        return _losses(own, saliency, data, seed, epoch)

    # Fused attention has no second derivative.
    with sdpa_kernel(SDPBackend.MATH), torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        gradients = _summed(losses(), parameters)
        for name in gradients.keys() & masks.keys():
            gradients[name].masked_fill_(~masks[name], 0)
        products = {name: torch.zeros_like(each) for name, each in parameters.items()}
        if saliency.order == 2:
            gradients = {name: each if _is_weight(each) else each.zero_() for name, each in gradients.items()}
            weighted = {name: each for name, each in parameters.items() if _is_weight(each)}
            products = _summed((_along(loss, weighted, gradients) for loss in losses()), parameters)
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


def _is_weight(value: Tensor) -> bool:
    return value.dim() > 1


def _summed(values: Iterable[Tensor], parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Parameter name -> the gradients of all `values`, one after another."""
    total = {name: torch.zeros_like(each) for name, each in parameters.items()}
    for value in values:
        found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
        for name, each in zip(total, found, strict=True):
            if each is not None:
                total[name] += each
    return total


def _along(loss: Tensor, weights: Mapping[str, nn.Parameter], direction: Mapping[str, Tensor]) -> Tensor:
    """`<direction, d loss / d weights>`, to be differentiated once more."""
    slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True, allow_unused=True)
    pairs = zip(weights, slopes, strict=True)
    return torch.stack([(slope * direction[name]).sum() for name, slope in pairs if slope is not None]).sum()


def _losses(module: nn.Module, saliency: GradientCriterion, data: Data, seed: int, epoch: int) -> Iterator[Tensor]:
    """Losses that add up to the sum of the batches' means, one piece of a batch after another."""
    batches = data.train_batches(saliency.batch_size, epoch=epoch, seed=seed)
    for images, targets in itertools.islice(batches, saliency.batches):
        pieces = len(images) if saliency.training else max(1, NUMBERS // images[0].numel())
        for start in range(0, len(images), pieces):
            here = slice(start, start + pieces)
            some, theirs = images[here], tree_map(itemgetter(here), targets)
            yield _loss(module(some), theirs, saliency, data) * (len(some) / len(images))


def _loss(output: Any, targets: Any, saliency: GradientCriterion, data: Data) -> Tensor:
    if saliency.loss == "logit":
        return -primary_output(output).gather(1, targets[:, None]).mean()
    if saliency.temperature != 1:
        output = tree_map(lambda each: each / saliency.temperature, output)
    return labelled_task(data, f"criterion {saliency.name}").loss(output, targets, 0.0)
