"""Which parameters are what a normalisation multiplies its channels by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def normalization_scales(parameters: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Names, in order: vectors called `weight` beside a `bias` of the same shape.

    That is how normalisations of any library hold them, and neither convolutions and linear layers nor activations.
    """
    return tuple(name for name, each in parameters.items() if each.ndim == 1 and _beside_a_bias(name, parameters))


def _beside_a_bias(name: str, parameters: Mapping[str, Tensor]) -> bool:
    owner, _, own = name.rpartition(".")
    bias = parameters.get(f"{owner}.bias" if owner else "bias")
    return own == "weight" and bias is not None and bias.shape == parameters[name].shape
