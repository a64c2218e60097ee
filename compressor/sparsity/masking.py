"""The weights of a model that can be masked, and masks applied to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

from compressor.execution.copies import copy_module
from compressor.layers import CONVOLUTIONS, WEIGHTED_LAYERS, named_weights
from compressor.sparsity.runtimes import RUNTIMES, NMSparsity, ineligible_reason


@dataclass(frozen=True, slots=True)
class Candidate:
    """The weight of a convolution or linear layer."""

    tensor: str  # its name
    shape: tuple[int, ...]
    reason: str | None  # why it remains dense; None = it can be masked


def candidates(module: nn.Module, sparsity: NMSparsity) -> tuple[Candidate, ...]:
    """List the weight of every Linear, Conv1d, Conv2d and Conv3d in the order of the network.

    Input projections of attention, embeddings and normalizations are never masked.

    Args:
        module: The network.
        sparsity: The pattern, the runtime that will use it, and layers that remain dense.

    Returns:
        The weights; a shared one appears once.
    """
    support = RUNTIMES[sparsity.runtime]
    layers = []
    for tensor, (name, weight) in named_weights(module, (nn.Linear, *CONVOLUTIONS)).items():
        shape = tuple(weight.shape)
        glob = next((glob for glob in sparsity.dense if fnmatchcase(name, glob)), None)
        reason = f"left dense by the recipe ({glob})" if glob else ineligible_reason(shape, support, sparsity.pattern)
        layers.append(Candidate(tensor, shape, reason))
    return tuple(layers)


def maskable_weights(module: nn.Module, layers: tuple[Candidate, ...]) -> dict[str, Tensor]:
    """Select the weights that can be masked.

    Args:
        module: The network.
        layers: Its `candidates`.

    Returns:
        The weights by name, detached.
    """
    return {layer.tensor: module.get_parameter(layer.tensor).detach() for layer in layers if layer.reason is None}


def all_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the weights of all convolutions and linear layers by name, in the order of the network, detached."""
    return {name: weight.detach() for name, (_, weight) in named_weights(module, WEIGHTED_LAYERS).items()}


def apply_masks(module: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Copy a network with zeros where a mask is False.

    Args:
        module: The network, which is not changed.
        masks: By parameter name, bool in the shape of the parameter.

    Returns:
        The masked copy.
    """
    masked = copy_module(module)
    apply_masks_(masked, masks)
    return masked


def apply_masks_(module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Write zeros where a mask is False, in place.

    Args:
        module: The network.
        masks: By parameter name, bool in the shape of the parameter.
    """
    for name, mask in masks.items():
        module.get_parameter(name).data.masked_fill_(~mask, 0)
