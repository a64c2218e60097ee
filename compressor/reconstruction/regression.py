"""A layer as a regression: its unknowns, its input columns and targets, and the way back into the module.

Shapes: R samples, G groups (1 for most layers), n input columns of a group, o output rows of a group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from compressor.core import KeptIndices
from compressor.reconstruction.sampled_patches import patches, sample_positions, take
from compressor.reconstruction.solvable_layers import Affine, SolvableLayer
from compressor.reconstruction.solve import Fit
from compressor.tensors import named_tensors

DEAD = 1e-3
"""A channel whose scale behind the layer is below this share of the largest cannot be aimed through that scale."""


@dataclass(frozen=True, slots=True)
class Regression:
    """One layer of the slim model as a regression problem.

    The unknowns of a convolution or linear layer are its weights. Where its rows are scaled, they are one factor for
    each output channel, whose only column is the channel's present output without the bias: in depthwise convolutions,
    which read no channel but their own, and in layers with so many inputs that their moments would not fit in memory.
    """

    layer: SolvableLayer
    shape: tuple[int, ...]  # of the layer's weight
    weight: Tensor  # W0 (G, o, n), float64
    scaled: Tensor | None  # rows (groups, outputs of each, inputs of each) that are scaled, as they are now
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
        """Select the channels of the dense layer's output that the slim layer keeps.

        Args:
            dense_output: The dense layer's output.

        Returns:
            The kept channels.
        """
        rows = self.rows
        return (
            dense_output if rows is None else dense_output.index_select(self.channel_dim, rows.to(dense_output.device))
        )

    def positions(self, output: Tensor, per_image: int, images: int, generator: torch.Generator) -> Tensor:
        """Draw the output positions of one batch; see `sample_positions`.

        Args:
            output: A tensor with the shape of the layer's output.
            per_image: Positions of one image.
            images: Images in the batch.
            generator: The seeded source of the draw.

        Returns:
            (N, P) indices into the flattened positions.
        """
        if self.layer.window is None:
            return sample_positions((1, output.numel() // output.shape[-1]), per_image * images, 1, generator)
        return sample_positions((output.shape[0], *output.shape[2:]), per_image, images, generator)

    def columns(self, values: Tensor, output: Tensor, positions: Tensor) -> Tensor:
        """Gather the input columns of sampled positions.

        Args:
            values: The layer's input.
            output: A tensor with the spatial shape of its output.
            positions: Positions of the output.

        Returns:
            (R, G, n).
        """
        window = self.layer.window
        if window is None:
            rows = values.reshape(-1, values.shape[-1])[positions[0].to(values.device)]
        else:
            rows = patches(values, positions, window, tuple(output.shape[2:]))
        by_group = rows.reshape(len(rows), self.layer.groups, -1)
        if self.scaled is None:
            return by_group
        return torch.einsum("rgn,gon->rgo", by_group, self.scaled.to(rows)).reshape(len(rows), -1, 1)

    def targets(self, target: Tensor, positions: Tensor) -> Tensor:
        """Gather the values of sampled positions.

        Args:
            target: A tensor with the shape of the layer's output.
            positions: Positions of the output.

        Returns:
            (R, C).
        """
        if self.layer.window is None:
            return target.reshape(-1, target.shape[-1])[positions[0].to(target.device)]
        return take(target, positions)

    def grouped(self, rows: Tensor) -> Tensor:
        """Rows (R, C) as (R, G, o)."""
        return rows.reshape(len(rows), *self.weight.shape[:2])

    def store(self, fitted: Fit, module: nn.Module, writable: Tensor | None) -> None:
        """Write a fit into the layer, and its intercept into the bias or the running mean of the BatchNorm behind it.

        Args:
            fitted: The solved layer.
            module: The model; changed.
            writable: Output channels (C,) that may change; None for all.
        """
        parameter = module.get_parameter(self.layer.weight)
        channels = self.channels
        keep = torch.ones(channels, dtype=torch.bool) if writable is None else writable.cpu()
        weight = torch.where(keep[:, None], fitted.weight.reshape(channels, -1), self.weight.reshape(channels, -1))
        parameter.data.copy_(self.as_parameter(weight))
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
        return self.as_parameter(support.reshape(self.channels, -1))

    def as_parameter(self, weight: Tensor) -> Tensor:
        """Rows (C, n) in the shape of the layer's weight."""
        if self.scaled is not None:
            weight = self.scaled * weight.reshape(*self.scaled.shape[:2], 1)
        if self.layer.window is not None and self.layer.window.transposed:
            outputs, *kernel = self.shape[1:]
            return weight.reshape(self.layer.groups, outputs, -1, *kernel).transpose(1, 2).reshape(self.shape)
        return weight.reshape(self.shape)


def as_regression(
    layer: SolvableLayer, module: nn.Module, kept: KeptIndices, most_features: float = math.inf
) -> Regression:
    """Build the regression of a layer of the slim model.

    Args:
        layer: The layer.
        module: The slim model.
        kept: Kept indices of its tensors in the dense model's numbering.
        most_features: The rows of a layer with more inputs than this are scaled.

    Returns:
        The regression.
    """
    parameter = module.get_parameter(layer.weight)
    transposed = layer.window is not None and layer.window.transposed
    weight, shape = weight_rows(parameter, layer), tuple(parameter.shape)
    has_intercept = layer.bias is not None or all(site.norm is not None for site in layer.sites)
    rows = kept.get(layer.weight, {}).get(1 if transposed else 0)
    index = None if rows is None else torch.tensor(rows)
    if not layer.depthwise and weight.shape[-1] <= most_features:
        return Regression(layer, shape, weight, None, has_intercept, index)
    ones = torch.ones(weight.shape[0] * weight.shape[1], 1, 1, dtype=torch.float64)
    return Regression(layer, shape, ones, weight, has_intercept, index)


def weight_rows(parameter: Tensor, layer: SolvableLayer) -> Tensor:
    """Reshape a layer's weight to rows, in float64.

    Args:
        parameter: The weight.
        layer: The layer.

    Returns:
        (G, o, n), columns in the order of `patches`.
    """
    weight = parameter.detach().double().cpu()
    if layer.window is not None and layer.window.transposed:
        outputs, *kernel = weight.shape[1:]
        weight = weight.reshape(layer.groups, -1, outputs, *kernel).transpose(1, 2).flatten(0, 1)
    return weight.reshape(layer.groups, weight.shape[0] // layer.groups, -1)


def dense_rows(layer: SolvableLayer, module: nn.Module, kept: KeptIndices) -> Tensor | None:
    """Select the rows and columns of the dense model's weight that the slim one keeps.

    Args:
        layer: The layer.
        module: The dense model.
        kept: Kept indices in the dense model's numbering.

    Returns:
        (G, o, n). None for a grouped layer that lost channels: its columns are not those of its weight's dimensions.
    """
    weight = module.get_parameter(layer.weight).detach()
    dims = kept.get(layer.weight, {})
    if layer.groups > 1 and dims:
        return None
    for dim, indices in dims.items():
        weight = weight.index_select(dim, torch.tensor(indices, device=weight.device))
    return weight_rows(weight, layer)


def kept_entries(layer: SolvableLayer, kept: KeptIndices, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the rows and columns of a dense layer of one group that the slim one keeps.

    Args:
        layer: The dense layer.
        kept: Kept indices in the dense model's numbering.
        weight: The dense weight (1, o, n).

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
    """The way back from a sum that a residual branch should reach to the output of the branch's last layer."""

    scale: Tensor  # (C,)
    shift: Tensor  # (C,)

    @property
    def reachable(self) -> Tensor:
        """Channels whose scale is not close to zero."""
        return self.scale.abs() >= DEAD * self.scale.abs().max()

    def before(self, rows: Tensor) -> Tensor:
        """The layer's target, (R, C), for the branch's target."""
        safe = torch.where(self.reachable, self.scale, 1.0).to(rows)
        return (rows - self.shift.to(rows)) / safe


def aim_through(affines: tuple[Affine, ...], channels: int, module: nn.Module) -> Aim:
    """Multiply everything that scales and shifts the channels between a layer and an addition.

    Args:
        affines: In the order in which they run.
        channels: Outputs of the layer.
        module: Holds their constants.

    Returns:
        Scale and shift of each channel.
    """
    constant = partial(_constant, named_tensors(module, every_name=True), channels)
    scale, shift = constant(None, 1.0), constant(None, 0.0)
    for affine in affines:
        factor = constant(affine.scale, 1.0)
        if affine.mean is not None:
            factor = factor / (constant(affine.variance, 1.0) + affine.eps).sqrt()
            shift = shift - constant(affine.mean, 0.0)
        scale, shift = scale * factor, shift * factor + constant(affine.shift, 0.0)
    return Aim(scale, shift)


def _constant(values: Mapping[str, Tensor], channels: int, name: str | None, default: float) -> Tensor:
    """A tensor of the module by channel, (C,); `default` where there is none."""
    if name is None:
        return torch.full((channels,), default, dtype=torch.float64)
    return values[name].detach().double().flatten().cpu()
