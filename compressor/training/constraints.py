"""Constraints bound to the module that is trained: penalties, fixed masks, and training of scales only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from compressor.core import PrunedEntries, normalization_scales
from compressor.layers import TRANSPOSED_CONVOLUTIONS, WEIGHTED_LAYERS, named_weights
from compressor.training.penalty import Penalty, PenaltyTerm

if TYPE_CHECKING:
    from compressor.core import BoolArray


class PenaltyConstraint:
    """Adds the gradients of a penalty, and holds pruned channels at zero from the penalty's `zero_from` on.

    Every kind of layer is treated alike: as a parameter with a dimension that holds the channels.
    """

    def __init__(
        self, module: nn.Module, iterations: int, *, penalty: Penalty, leaving: Sequence[Sequence[PrunedEntries]]
    ) -> None:
        """Bind the penalty to a module.

        Args:
            module: The network.
            iterations: The length of the training.
            penalty: Its terms, and when pruned channels become zero.
            leaving: The pruned entries of each group, in the order of the groups in the network.
        """
        self._iterations = iterations
        parameters = dict(module.named_parameters())
        self._penalized: list[tuple[PenaltyTerm, nn.Parameter, int, Tensor]] = [
            (term, parameters[name], dim, torch.from_numpy(pruned).to(parameters[name].device))
            for term in penalty.terms
            for (name, dim), pruned in _entries(term, module, leaving).items()
            if name in parameters
        ]
        self._zeroed: list[tuple[int, nn.Parameter, int, Tensor]] = [
            (
                penalty.zero_from(index, len(leaving), iterations),
                parameters[pruned.tensor],
                pruned.dim,
                torch.from_numpy(np.flatnonzero(pruned.entries)).to(parameters[pruned.tensor].device),
            )
            for index, group in enumerate(leaving)
            for pruned in group
            if penalty.zero_from is not None and pruned.tensor in parameters
        ]

    @torch.no_grad()
    def after_backward(self, iteration: int) -> None:
        """Add the gradient of every term at its present strength."""
        for term, parameter, dim, pruned in self._penalized:
            strength = term.strength(iteration, self._iterations)
            if strength == 0:
                continue
            gradient = term.gradient(parameter.movedim(dim, 0), pruned).movedim(0, dim)
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.add_(gradient, alpha=strength)

    @torch.no_grad()
    def after_step(self, iteration: int) -> None:
        """Set the pruned channels of groups to zero from their iteration on."""
        for start, parameter, dim, pruned in self._zeroed:
            if iteration >= start:
                parameter.index_fill_(dim, pruned, 0.0)


def _entries(
    term: PenaltyTerm, module: nn.Module, leaving: Sequence[Sequence[PrunedEntries]]
) -> dict[tuple[str, int], BoolArray]:
    """Find the tensors that a term applies to: (name, dimension of the filters) -> which entries are pruned."""
    parameters = dict(module.named_parameters())
    if term.applies_to == "norm_scales":
        return {(name, 0): np.zeros(len(parameters[name]), dtype=np.bool_) for name in normalization_scales(parameters)}
    if term.applies_to == "all_layers":
        layers: dict[tuple[str, int], BoolArray] = {}
        for name, (layer, weight) in list(named_weights(module, WEIGHTED_LAYERS).items())[term.skip_first :]:
            dim = int(isinstance(module.get_submodule(layer), TRANSPOSED_CONVOLUTIONS))
            layers[name, dim] = np.zeros(weight.shape[dim], dtype=np.bool_)
        return layers
    role = "writer" if term.applies_to == "pruned_filters" else "per_channel"
    entries: dict[tuple[str, int], BoolArray] = {}
    for pruned in chain.from_iterable(leaving):
        if pruned.role == role:  # groups may share a tensor
            key = (pruned.tensor, pruned.dim)
            entries[key] = entries.get(key, False) | pruned.entries
    return entries


class ScalesOnly:
    """Trains the scales and shifts of normalizations and nothing else. Running statistics are updated as usual."""

    def __init__(self, module: nn.Module, iterations: int) -> None:
        parameters = dict(module.named_parameters())
        scales = normalization_scales(parameters)
        trained = {*scales, *(f"{name.removesuffix('weight')}bias" for name in scales)}
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in trained)

    def after_backward(self, iteration: int) -> None:
        """Do nothing: the other parameters have no gradient."""

    def after_step(self, iteration: int) -> None:
        """Do nothing: the optimizer skips parameters without a gradient."""


class FixedMaskConstraint:
    """Masks gradients before the step of the optimizer, and weights after it.

    Both are needed. A momentum from an earlier training would change a weight whose gradient is masked, and gradients
    that are not masked would count in their common norm when they are clipped.
    """

    def __init__(self, module: nn.Module, iterations: int, *, masks: Mapping[str, Tensor]) -> None:
        """Bind the masks to a module.

        Args:
            module: The network.
            iterations: Not used, because masks are the same in every iteration.
            masks: By parameter name, True for kept weights.
        """
        parameters = {name: module.get_parameter(name) for name in masks}
        self._masked = [(parameters[name], ~mask.to(parameters[name].device)) for name, mask in masks.items()]

    def after_backward(self, iteration: int) -> None:
        """Set the gradients of masked weights to zero."""
        for parameter, removed in self._masked:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(removed, 0)

    def after_step(self, iteration: int) -> None:
        """Set masked weights to zero."""
        for parameter, removed in self._masked:
            parameter.data.masked_fill_(removed, 0)
