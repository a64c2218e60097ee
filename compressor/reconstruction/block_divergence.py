"""How far a model's answers move when residual blocks are dropped and repaired by an affine map of every channel.

A block y = x + f(x) is replaced by  a x + c  with  a = cov(x, y) / var(x),  c = mean(y) - a mean(x),  channel by
channel: the least-squares repair that the next reader can absorb. Blocks are judged by what they do to the answers of
the whole model, on samples without labels that the map was not fitted to (after Wang and Wu, Practical Network
Acceleration with Tiny Sets, CVPR 2023, arXiv:2202.07861, which drops blocks by their recoverability).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from compressor.agreement import AgreementMeter
from compressor.batches import batch_length, output_batch_dims
from compressor.core import BatchDims
from compressor.execution.copies import copy_module
from compressor.tensors import Inputs, call_module


class AffineStandIn(nn.Module):
    """Scales and shifts every channel of its first argument."""

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        """Keep both.

        Args:
            scale: Of the shape of the input, with one entry in every dimension but that of the channels.
            shift: The same.
        """
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, input: Tensor, *others: object, **options: object) -> Tensor:
        """Return the scaled and shifted first argument."""
        scale, shift = self.get_buffer("scale"), self.get_buffer("shift")
        return input * scale + shift


class ChannelMoments:
    """Sums over samples and positions of a block's input x and output y, for every channel."""

    def __init__(self, channel_dim: int) -> None:
        """Start without samples.

        Args:
            channel_dim: The dimension of the channels.
        """
        self._dim, self._ndim, self._count = channel_dim, 0, 0
        self._sums: Tensor | None = None  # (4, C): of x, y, x x, x y

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add one batch.

        Args:
            x: The block's input.
            y: Its output, of the same shape.
        """
        self._ndim = x.ndim
        rows = [part.movedim(self._dim, 0).flatten(1).double() for part in (x, y)]
        sums = torch.stack([rows[0].sum(1), rows[1].sum(1), (rows[0] ** 2).sum(1), (rows[0] * rows[1]).sum(1)])
        self._sums = sums if self._sums is None else self._sums + sums
        self._count += rows[0].shape[1]

    def stand_in(self) -> AffineStandIn:
        """The affine map with the least squared error; the identity and a shift for channels that never change."""
        assert self._sums is not None, "no batch was added"
        mean_x, mean_y, xx, xy = self._sums / self._count
        variance, covariance = xx - mean_x**2, xy - mean_x * mean_y
        constant = variance <= 1e-12 * xx.clamp_min(1e-30)
        scale = torch.where(constant, 1.0, covariance / variance.where(~constant, torch.ones_like(variance)))
        shape = [1] * self._ndim
        shape[self._dim] = len(scale)
        shift = mean_y - scale * mean_x
        return AffineStandIn(scale.float().reshape(shape), shift.float().reshape(shape))


class BlockDivergence:
    """Measures a dense model without some of its blocks."""

    def __init__(
        self,
        dense: nn.Module,
        channel_dims: Mapping[str, int],
        fitted: Sequence[Inputs],
        judged: Sequence[Inputs],
        num_classes: int | None,
        batch_dims: BatchDims | None = None,
    ) -> None:
        """Fit the maps in one pass over the dense model, and store its answers.

        Args:
            dense: The model in eval mode.
            channel_dims: Block -> the dimension of its channels.
            fitted: Batches that the maps are fitted to.
            judged: Batches that the answers are compared on.
            num_classes: What `classes_scored` returns.
            batch_dims: Batch dimension of each input; None = the first of all.
        """
        self._dense, self._judged, self._batch_dims = dense, judged, batch_dims
        self._meter = partial(AgreementMeter, num_classes, output_batch_dims(dense, judged[0], batch_dims))
        moments = {name: ChannelMoments(dim) for name, dim in channel_dims.items()}
        observed = copy_module(dense)
        for name, sums in moments.items():
            entered: list[Tensor] = []
            part = observed.get_submodule(name)
            part.register_forward_pre_hook(partial(_remember, entered))
            part.register_forward_hook(partial(_add, entered, sums))
        with torch.inference_mode():
            for inputs in fitted:
                call_module(observed, inputs)
            self._answers = [call_module(dense, inputs) for inputs in judged]
        self._stand_ins = {name: sums.stand_in() for name, sums in moments.items()}

    def of(self, names: Sequence[str]) -> float:
        """The divergence of the answers without these blocks: KL for class scores, the relative error otherwise."""
        slim = copy_module(self._dense)
        for name in names:
            slim.set_submodule(name, self._stand_ins[name])
        meter = self._meter()
        with torch.inference_mode():
            for inputs, answer in zip(self._judged, self._answers, strict=True):
                meter.update(answer, call_module(slim, inputs), batch_length(inputs, self._batch_dims))
        return meter.compute().divergence


def _remember(entered: list[Tensor], _: nn.Module, taken: tuple[Tensor, ...]) -> None:
    entered.append(taken[0].clone())  # a block may write into its input


def _add(entered: list[Tensor], sums: ChannelMoments, _: nn.Module, __: object, result: Tensor) -> None:
    sums.add(entered.pop(), result)
