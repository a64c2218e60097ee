"""A layer seen as a regression: its unknowns, its input columns and targets, and the way back into the module.

Shapes: R samples, G groups (1 for most layers), n input columns of a group, o output rows of a group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressor.core import KeptIndices
from compressor.reconstruction.layers import Affine, Layer
from compressor.reconstruction.sampled_patches import patches, sample_positions, take
from compressor.reconstruction.solve import Fit

DEAD = 1e-3
"""A channel whose scale behind the layer is below this share of the largest cannot be aimed through that scale."""


@dataclass(frozen=True, slots=True)
class Regression:
    """One layer of the slim model as a regression problem.

    A convolution or linear layer has its weights as unknowns. A depthwise convolution sees no other channel than its
    own, so that its unknowns are one factor for each channel: its only column is what it gives now, without the bias.
    """

    layer: Layer
    shape: tuple[int, ...]  # of the layer's weight
    weight: Tensor  # W0 (G, o, n), float64
    taps: Tensor | None  # (channels in, outputs of each, K) of a depthwise convolution, as they are now
    has_intercept: bool
    rows: Tensor | None  # output channels of the dense layer that are kept; None for all

    @property
    def channels(self) -> int:
        """Output channels, G * o."""
        return self.weight.shape[0] * self.weight.shape[1]

    @property
    def channel_dim(self) -> int:
        """The dimension of the output that holds the channels."""
        return -1 if self.layer.window is None else 1

    def of_kept(self, dense_output: Tensor) -> Tensor:
        """The dense layer's output at the channels that the slim one has."""
        rows = self.rows
        return (
            dense_output if rows is None else dense_output.index_select(self.channel_dim, rows.to(dense_output.device))
        )

    def positions(self, output: Tensor, per_image: int, images: int, generator: torch.Generator) -> Tensor:
        """Draw the output positions of one batch, see `sample_positions`."""
        if self.layer.window is None:
            return sample_positions((1, output.numel() // output.shape[-1]), per_image * images, 1, generator)
        return sample_positions((output.shape[0], *output.shape[2:]), per_image, images, generator)

    def columns(self, values: Tensor, output: Tensor, positions: Tensor) -> Tensor:
        """Input columns (R, G, n) of sampled positions.

        Args:
            values: the layer's input.
            output: anything with the spatial shape of its output.
            positions: which positions of the output.
        """
        window = self.layer.window
        if window is None:
            rows = values.reshape(-1, values.shape[-1])[positions[0].to(values.device)]
        else:
            rows = patches(values, positions, window, tuple(output.shape[2:]))
        if self.taps is None:
            return rows.reshape(len(rows), self.layer.groups, -1)
        taps = self.taps.to(rows)
        per_channel = rows.reshape(len(rows), len(taps), 1, -1)
        return (per_channel * taps).sum(-1).reshape(len(rows), -1, 1)

    def targets(self, target: Tensor, positions: Tensor) -> Tensor:
        """Values of sampled positions of the output, (R, C)."""
        if self.layer.window is None:
            return target.reshape(-1, target.shape[-1])[positions[0].to(target.device)]
        return take(target, positions)

    def grouped(self, rows: Tensor) -> Tensor:
        """Rows (R, C) as (R, G, o)."""
        return rows.reshape(len(rows), *self.weight.shape[:2])

    def store(self, fitted: Fit, module: nn.Module, writable: Tensor | None) -> None:
        """Write a fit into the layer, and its intercept into the bias or the running mean of the BatchNorm behind it.

        Args:
            fitted: the solved layer.
            module: the model; changed.
            writable: output channels (C,) that may change; None for all.
        """
        parameter = module.get_parameter(self.layer.weight)
        channels = self.channels
        keep = torch.ones(channels, dtype=torch.bool) if writable is None else writable.cpu()
        weight = torch.where(keep[:, None], fitted.weight.reshape(channels, -1), self.weight.reshape(channels, -1))
        parameter.data.copy_(self._as_parameter(weight))
        if fitted.bias is None:
            return
        bias = fitted.bias.reshape(channels)
        if self.layer.bias is not None:
            current = module.get_parameter(self.layer.bias).data
            current.copy_(torch.where(keep.to(current.device), bias.to(current), current))
            return
        for name in {site.norm.mean for site in self.layer.sites if site.norm is not None}:
            assert name is not None
            mean = module.get_buffer(name)
            mean.sub_(torch.where(keep, bias, 0.0).to(mean))

    def as_mask(self, support: Tensor) -> Tensor:
        """A support (G, o, n) in the shape of the layer's weight."""
        return self._as_parameter(support.reshape(self.channels, -1))

    def _as_parameter(self, weight: Tensor) -> Tensor:
        """Rows (C, n) in the shape of the layer's weight."""
        if self.taps is not None:
            scaled = self.taps * weight.reshape(*self.taps.shape[:2], 1)
            return scaled.reshape(self.shape)
        if self.layer.window is not None and self.layer.window.transposed:
            outputs, *kernel = self.shape[1:]
            return weight.reshape(self.layer.groups, outputs, -1, *kernel).transpose(1, 2).reshape(self.shape)
        return weight.reshape(self.shape)


def as_regression(layer: Layer, module: nn.Module, kept: KeptIndices) -> Regression:
    """The regression of a layer of the slim model.

    Args:
        layer: where it is called.
        module: the slim model.
        kept: kept indices of its tensors in the dense model's numbering.
    """
    parameter = module.get_parameter(layer.weight)
    transposed = layer.window is not None and layer.window.transposed
    weight, shape = rows_of(parameter, layer), tuple(parameter.shape)
    has_intercept = layer.bias is not None or all(site.norm is not None for site in layer.sites)
    rows = kept.get(layer.weight, {}).get(1 if transposed else 0)
    index = None if rows is None else torch.tensor(rows)
    if not layer.depthwise:
        return Regression(layer, shape, weight, None, has_intercept, index)
    taps = weight.reshape(layer.groups, -1, weight.shape[-1])
    ones = torch.ones(taps.shape[0] * taps.shape[1], 1, 1, dtype=torch.float64)
    return Regression(layer, shape, ones, taps, has_intercept, index)


def rows_of(parameter: Tensor, layer: Layer) -> Tensor:
    """A layer's weight as (G, o, n) in float64, columns in the order of `patches`."""
    weight = parameter.detach().double().cpu()
    if layer.window is not None and layer.window.transposed:
        outputs, *kernel = weight.shape[1:]
        weight = weight.reshape(layer.groups, -1, outputs, *kernel).transpose(1, 2).flatten(0, 1)
    return weight.reshape(layer.groups, weight.shape[0] // layer.groups, -1)


def dense_rows(layer: Layer, module: nn.Module, kept: KeptIndices) -> Tensor | None:
    """The dense model's weight at the rows and columns that the slim one has, (G, o, n).

    Args:
        layer: where it is called.
        module: the dense model.
        kept: kept indices in the dense model's numbering.

    Returns:
        None for a grouped layer that lost channels: its columns are not those of its weight's dimensions.
    """
    weight = module.get_parameter(layer.weight).detach()
    dims = kept.get(layer.weight, {})
    if layer.groups > 1 and dims:
        return None
    for dim, indices in dims.items():
        weight = weight.index_select(dim, torch.tensor(indices, device=weight.device))
    return rows_of(weight, layer)


def kept_entries(layer: Layer, kept: KeptIndices, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The rows and columns of a dense layer of one group that the slim one has.

    Args:
        layer: the dense layer.
        kept: kept indices in the dense model's numbering.
        weight: the dense weight (1, o, n).

    Returns:
        Indices into o and into n.
    """
    outputs, inputs = (1, 0) if layer.window is not None and layer.window.transposed else (0, 1)
    taps = math.prod(layer.window.kernel) if layer.window is not None else 1
    dims = kept.get(layer.weight, {})
    rows = torch.tensor(dims.get(outputs, range(weight.shape[1])))
    channels = torch.tensor(dims.get(inputs, range(weight.shape[2] // taps)))
    return rows, (channels.unsqueeze(1) * taps + torch.arange(taps)).flatten()


@dataclass(frozen=True, slots=True)
class Aim:
    """From a sum that a residual branch should help to reach, back to the output of the branch's last layer."""

    scale: Tensor  # (C,)
    shift: Tensor  # (C,)

    @property
    def reachable(self) -> Tensor:
        """Channels whose scale is not close to zero."""
        return self.scale.abs() >= DEAD * self.scale.abs().max()

    def before(self, rows: Tensor) -> Tensor:
        """What the layer should give, (R, C), for what the branch should give."""
        safe = torch.where(self.reachable, self.scale, 1.0).to(rows)
        return (rows - self.shift.to(rows)) / safe


def aim_through(affines: tuple[Affine, ...], channels: int, module: nn.Module) -> Aim:
    """The product of everything that scales and shifts the channels between a layer and an addition.

    Args:
        affines: in the order in which they run.
        channels: outputs of the layer.
        module: holds their constants.
    """
    values: Mapping[str, Tensor] = module.state_dict()

    def constant(name: str | None, default: float) -> Tensor:
        if name is None:
            return torch.full((channels,), default, dtype=torch.float64)
        return values[name].double().flatten().cpu()

    scale, shift = constant(None, 1.0), constant(None, 0.0)
    for affine in affines:
        factor = constant(affine.scale, 1.0)
        if affine.mean is not None:
            factor = factor / (constant(affine.variance, 1.0) + affine.eps).sqrt()
            shift = shift - constant(affine.mean, 0.0)
        scale, shift = scale * factor, shift * factor + constant(affine.shift, 0.0)
    return Aim(scale, shift)
