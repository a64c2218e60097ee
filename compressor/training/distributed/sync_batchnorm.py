"""Batch normalization over a batch that is divided among processes.

torch's SyncBatchNorm runs on GPUs only and replaces layers. This one changes what `torch.nn.functional.batch_norm`
computes during a forward pass, so that modules, their names and their subclasses are unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Average = Callable[[Tensor], Tensor]
"""a tensor -> its mean over all processes"""


def synchronized_batchnorm(module: nn.Module, average: Average, processes: int) -> Callable[[Tensor], Any]:
    """Make the forward pass of a network whose BatchNorm layers use the statistics of the batch of all processes.

    Args:
        module: The network.
        average: Averages a tensor over all processes, whose shares of the batch are equally large.
        processes: The number of processes.

    Returns:
        The forward pass of this process's share.
    """
    mode = _Synchronized(average, processes)

    def forward(images: Tensor) -> Any:
        with mode:
            return module(images)

    return forward


class _Synchronized(TorchFunctionMode):
    def __init__(self, average: Average, processes: int) -> None:
        super().__init__()
        self._average, self._processes = average, processes

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Compute torch.nn.functional.batch_norm of this share with the statistics of the complete batch."""
        if not training:
            return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        mean, var = _statistics(input.detach(), self._average)
        if running_mean is not None and running_var is not None:
            count = self._processes * input.numel() / input.shape[1]
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(var * (count / (count - 1)), momentum)
        normalized: Tensor = _Normalize.apply(input, weight, bias, mean, var, eps, self._average)
        return normalized


def _statistics(x: Tensor, average: Average) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel (C,) over the complete batch, float32.

    One exchange suffices: in float64 the means of squares lose no digits.
    """
    var, mean = torch.var_mean(x.float(), dim=_all_but_channels(x), correction=0)
    mean, square = average(torch.stack([mean.double(), var.double() + mean.double() ** 2]))
    return mean.float(), (square - mean**2).clamp_(min=0).float()


class _Normalize(torch.autograd.Function):
    """`y = w (x - mean) / s + b` with `s = sqrt(var + eps)`, where `mean` and `var` depend on x in all processes:
    `dx = w / s (dy - mean(dy) - h mean(dy h))` with `h = (x - mean) / s` and means over the complete batch.

    The gradients of w and b are those of this process's share.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, eps: float,
        average: Average,
    ) -> Tensor:  # fmt: skip
        """Normalize this process's share.

        Args:
            ctx: Keeps what `backward` needs.
            x: This process's share (B, C, *).
            weight: Scales (C,).
            bias: Shifts (C,).
            mean: Of the complete batch (C,).
            var: Of the complete batch (C,).
            eps: Added to the variance.
            average: Averages a tensor over all processes.

        Returns:
            y (B, C, *).
        """
        ctx.save_for_backward(x, weight, mean, var)
        ctx.eps, ctx.average = eps, average
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients.

        Args:
            ctx: What `forward` kept.
            dy: Gradient of y (B, C, *).

        Returns:
            The gradients of the arguments of `forward`.
        """
        x, weight, mean, var = ctx.saved_tensors
        shape = (1, -1, *(1 for _ in x.shape[2:]))
        scale = torch.rsqrt(var + ctx.eps)
        h = (x.float() - mean.view(shape)) * scale.view(shape)
        dy32 = dy.float()
        for_bias, for_weight = dy32.sum(_all_but_channels(x)), (dy32 * h).sum(_all_but_channels(x))
        mean_dy, mean_dy_h = ctx.average(torch.stack([for_bias, for_weight])) * (x.shape[1] / x.numel())
        factor = scale if weight is None else weight * scale
        dx = factor.view(shape) * (dy32 - mean_dy.view(shape) - h * mean_dy_h.view(shape))
        affine = (None, None) if weight is None else (for_weight, for_bias)
        return dx.to(x.dtype), *affine, None, None, None, None


def _all_but_channels(x: Tensor) -> list[int]:
    """All dimensions except that of the channels."""
    return [dim for dim in range(x.ndim) if dim != 1]
