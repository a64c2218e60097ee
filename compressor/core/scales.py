"""The parameters by which normalisations multiply their channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def normalization_scales(parameters: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Find the scales by their form: vectors called `weight` beside a `bias` of the same shape.

    Normalisations of every library store them like this, and no convolution, linear layer or activation does.
    """
    return tuple(name for name, tensor in parameters.items() if tensor.ndim == 1 and _has_bias(name, parameters))


def _has_bias(name: str, parameters: Mapping[str, Tensor]) -> bool:
    owner, _, own = name.rpartition(".")
    bias = parameters.get(f"{owner}.bias" if owner else "bias")
    return own == "weight" and bias is not None and bias.shape == parameters[name].shape
