"""Batch normalisation of a batch that several processes hold parts of.

torch's own SyncBatchNorm runs on GPUs only, and takes the place of layers. This one changes what
`torch.nn.functional.batch_norm` computes while a network answers, so modules, their names and their subclasses stay
as they are.
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
    """`module`, whose layers normalise by the statistics of all processes' parts, which are equally large."""
    mode = _Synchronised(average, processes)

    def forward(images: Tensor) -> Any:
        with mode:
            return module(images)

    return forward


class _Synchronised(TorchFunctionMode):
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
        """The arguments of torch.nn.functional.batch_norm, and what it gives for the whole batch at this part."""
        if not training:
            return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        mean, var = _statistics(input.detach(), self._average)
        if running_mean is not None and running_var is not None:
            count = self._processes * input.numel() / input.shape[1]
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(var * (count / (count - 1)), momentum)
        answer: Tensor = _Normalise.apply(input, weight, bias, mean, var, eps, self._average)
        return answer


def _statistics(x: Tensor, average: Average) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance of each channel (C,) over the whole batch, float32.

    One exchange: means of the squares lose no digits in float64.
    """
    var, mean = torch.var_mean(x.float(), dim=_others(x), correction=0)
    mean, square = average(torch.stack([mean.double(), var.double() + mean.double() ** 2]))
    return mean.float(), (square - mean**2).clamp_(min=0).float()


class _Normalise(torch.autograd.Function):
    """`y = w (x - mean) / s + b` with `s = sqrt(var + eps)`, where `mean` and `var` are functions of x everywhere:
    `dx = w / s (dy - mean(dy) - h mean(dy h))` with `h = (x - mean) / s` and means over the whole batch.

    Gradients of w and b are of this process's part.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, eps: float,
        average: Average,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, weight, mean, var)
        ctx.eps, ctx.average = eps, average
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var = ctx.saved_tensors
        shape = (1, -1, *(1 for _ in x.shape[2:]))
        scale = torch.rsqrt(var + ctx.eps)
        h = (x.float() - mean.view(shape)) * scale.view(shape)
        dy32 = dy.float()
        for_bias, for_weight = dy32.sum(_others(x)), (dy32 * h).sum(_others(x))
        mean_dy, mean_dy_h = ctx.average(torch.stack([for_bias, for_weight])) * (x.shape[1] / x.numel())
        factor = scale if weight is None else weight * scale
        dx = factor.view(shape) * (dy32 - mean_dy.view(shape) - h * mean_dy_h.view(shape))
        affine = (None, None) if weight is None else (for_weight, for_bias)
        return dx.to(x.dtype), *affine, None, None, None, None


def _others(x: Tensor) -> list[int]:
    """All dimensions but that of the channels."""
    return [dim for dim in range(x.ndim) if dim != 1]
