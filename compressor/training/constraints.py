"""A penalty bound to the module that is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from compressor.core import PrunedEntries, normalization_scales
from compressor.training.penalty import Penalty, PenaltyTerm

if TYPE_CHECKING:
    from compressor.core import BoolArray


LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class PenaltyConstraint:
    """Adds a penalty's pulls to the gradients, and holds at zero what leaves once its time has come.

    `leaving`: what each group that is cut loses, in the order in which groups are written. Networks without
    normalisation, groups that several layers write, linear and depthwise layers are all the same here: a parameter
    with some dimension that holds the channels.
    """

    def __init__(
        self, module: nn.Module, iterations: int, *, penalty: Penalty, leaving: Sequence[Sequence[PrunedEntries]]
    ) -> None:
        self._iterations = iterations
        parameters = dict(module.named_parameters())
        self._pulled: list[tuple[PenaltyTerm, nn.Parameter, int, Tensor]] = [
            (term, parameters[name], dim, torch.from_numpy(entries).to(parameters[name].device))
            for term in penalty.terms
            for (name, dim), entries in _entries(term, module, leaving).items()
            if name in parameters
        ]
        self._zeroed: list[tuple[int, nn.Parameter, int, Tensor]] = [
            (
                penalty.zero_from(place, len(leaving), iterations),
                parameters[each.tensor],
                each.dim,
                torch.from_numpy(np.flatnonzero(each.entries)).to(parameters[each.tensor].device),
            )
            for place, group in enumerate(leaving)
            for each in group
            if penalty.zero_from is not None and each.tensor in parameters
        ]

    def loss(self, iteration: int) -> None:
        """Nothing: every pull is a gradient in closed form."""

    @torch.no_grad()
    def after_backward(self, iteration: int) -> None:
        """Add every pull at the strength it has now."""
        for term, parameter, dim, leaving in self._pulled:
            strength = term.strength(iteration, self._iterations)
            if strength == 0:
                continue
            pulled = term.gradient(parameter.movedim(dim, 0), leaving).movedim(0, dim)
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.add_(pulled, alpha=strength)

    @torch.no_grad()
    def after_step(self, iteration: int) -> None:
        """Hold at zero what is due."""
        for start, parameter, dim, gone in self._zeroed:
            if iteration >= start:
                parameter.index_fill_(dim, gone, 0.0)


def _entries(
    term: PenaltyTerm, module: nn.Module, leaving: Sequence[Sequence[PrunedEntries]]
) -> dict[tuple[str, int], BoolArray]:
    """The tensors that the term pulls on, by the dimension of their filters, and which entries of it leave."""
    if term.applies_to == "layers":
        return dict(list(_layers(module))[term.skip_first :])
    if term.applies_to == "scales":
        parameters = dict(module.named_parameters())
        return {(name, 0): np.zeros(len(parameters[name]), dtype=np.bool_) for name in normalization_scales(parameters)}
    role = "writer" if term.applies_to == "filters" else "per_channel"
    found: dict[tuple[str, int], BoolArray] = {}
    for each in chain.from_iterable(leaving):
        if each.role == role:  # groups may share a tensor
            key = (each.tensor, each.dim)
            found[key] = found.get(key, False) | each.entries
    return found


def _layers(module: nn.Module) -> Iterator[tuple[tuple[str, int], BoolArray]]:
    for name, layer in module.named_modules():
        if isinstance(layer, (*LAYERS, *TRANSPOSED)):
            dim = int(isinstance(layer, TRANSPOSED))
            yield (f"{name}.weight" if name else "weight", dim), np.zeros(layer.weight.shape[dim], dtype=np.bool_)


class ScalesOnly:
    """Lets scales and shifts of normalisations learn, and nothing else: no gradient, no decay, no momentum.

    Running statistics follow the batches as ever.
    """

    def __init__(self, module: nn.Module, iterations: int) -> None:
        parameters = dict(module.named_parameters())
        scales = normalization_scales(parameters)
        learning = {*scales, *(f"{name.removesuffix('weight')}bias" for name in scales)}
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in learning)

    def loss(self, iteration: int) -> None:
        """Nothing is added."""

    def after_backward(self, iteration: int) -> None:
        """The others have none."""

    def after_step(self, iteration: int) -> None:
        """The others have not moved."""


class FixedMaskConstraint:
    """The constraint of fixed masks: gradients are masked before the optimizer's step, weights after it.

    Both are needed: a momentum that was there before revives a weight whose gradient is masked, and gradients that are
    not masked disturb what is averaged or clipped over all of them.
    """

    def __init__(self, module: nn.Module, masks: Mapping[str, Tensor]) -> None:
        parameters = {name: module.get_parameter(name) for name in masks}
        self._bound = [(parameters[name], ~mask.to(parameters[name].device)) for name, mask in masks.items()]

    def loss(self, iteration: int) -> None:
        """Nothing is added."""

    def after_backward(self, iteration: int) -> None:
        for parameter, gone in self._bound:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(gone, 0)

    def after_step(self, iteration: int) -> None:
        for parameter, gone in self._bound:
            parameter.data.masked_fill_(gone, 0)


def fixed_masks(module: nn.Module, iterations: int, *, masks: Mapping[str, Tensor]) -> FixedMaskConstraint:
    """The constraint as a training binds it; it is the same in every iteration."""
    del iterations
    return FixedMaskConstraint(module, masks)
