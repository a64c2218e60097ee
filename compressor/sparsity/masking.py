"""The layers of a model that can be masked, and the masked model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

from compressor.execution.copies import copy_module
from compressor.sparsity.runtimes import RUNTIMES, NMSparsity, ineligible_reason


@dataclass(frozen=True, slots=True)
class Candidate:
    """A convolution or linear layer. `reason`: why its weight stays dense, None where it can be masked."""

    tensor: str  # name of its weight
    shape: tuple[int, ...]
    reason: str | None


def candidates(module: nn.Module, sparsity: NMSparsity) -> tuple[Candidate, ...]:
    """Every Linear, Conv1d, Conv2d and Conv3d in the model's order, a weight that several of them share once.

    Input projections of attention, embeddings and normalisations are never masked.
    """
    support = RUNTIMES[sparsity.runtime]
    found: dict[int, Candidate] = {}
    for name, each in module.named_modules():
        if isinstance(each, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and id(each.weight) not in found:
            kept = next((glob for glob in sparsity.dense if fnmatchcase(name, glob)), None)
            shape = tuple(each.weight.shape)
            reason = (
                f"left dense by the recipe ({kept})" if kept else ineligible_reason(shape, support, sparsity.pattern)
            )
            found[id(each.weight)] = Candidate(f"{name}.weight" if name else "weight", shape, reason)
    return tuple(found.values())


def weights_of(module: nn.Module, found: tuple[Candidate, ...]) -> dict[str, Tensor]:
    """The weights that can be masked, by name."""
    return {each.tensor: module.get_parameter(each.tensor).detach() for each in found if each.reason is None}


WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def all_weights(module: nn.Module) -> dict[str, Tensor]:
    """The weight of every convolution and linear layer by name, in the model's order, one that several share once."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, each in module.named_modules():
        weight = dict(each.named_parameters(recurse=False)).get("weight") if isinstance(each, WEIGHTED) else None
        if weight is not None:
            found.setdefault(id(weight), (f"{name}.weight" if name else "weight", weight.detach()))
    return dict(found.values())


def apply_masks(module: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """A copy of `module` with zeros where a mask is False. `module` is left as it is."""
    copied = copy_module(module)
    apply_masks_(copied, masks)
    return copied


def apply_masks_(module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Put zeros where a mask is False, in place."""
    for name, mask in masks.items():
        module.get_parameter(name).data.masked_fill_(~mask, 0)
