"""A gauge of how well a network can be trained: what its Jacobian does to lengths."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.stats import t as student
from torch import Tensor, nn

from compressor.core import JacobianIsometry
from compressor.execution.copies import copy_module

EXACT = 128  # outputs; up to here every row of the Jacobian is computed
PROBES, STEPS = 4, 10  # random vectors for each image, and Lanczos steps for each of them
PASSES = 4 * PROBES * STEPS  # forward passes that cost as much: one backward and one backward of that a step
IMAGES = 32  # at most
BUDGET = 2e11  # multiply-adds spent on images beyond the first


def sample_size(outputs: int, macs: int) -> int:
    """How many images the gauge may look at: 1 to 32, so that it costs about 2e11 multiply-adds."""
    passes = 2 * outputs if outputs <= EXACT else PASSES
    return int(min(IMAGES, max(1, BUDGET // (passes * macs))))


def jacobian_isometry(module: nn.Module, images: Tensor, macs: int) -> JacobianIsometry | None:
    """Mean singular value of the Jacobian at the first of `images` (B, C, H, W), as many as `sample_size` says for a
    network of so many multiply-adds; None for one that does not answer an image with a row of logits.

    1 means that lengths are kept on the way. Batch statistics would mix the images: hence eval mode. With up to
    128 outputs the Jacobian is computed, one backward pass for each output, and decomposed. With more,
    `tr (J J^T)^(1/2) / min(outputs, inputs)` is estimated by stochastic Lanczos quadrature with 4 random sign vectors
    of 10 steps each (Ubaru, Chen and Saad, SIAM J. Matrix Anal. Appl. 38(4), 2017).
    """
    module = copy_module(module).eval().requires_grad_(False)
    answer = module(images[:1])
    if not isinstance(answer, Tensor) or answer.ndim != 2 or len(answer) != 1:
        return None
    inputs = images[: sample_size(answer.shape[1], macs)].clone().requires_grad_()
    logits = module(inputs)
    if logits.shape[1] <= EXACT:
        return JacobianIsometry(float(_singular_values(logits, inputs).mean()), 0.0, len(inputs))
    return _estimate(logits, inputs)


def _singular_values(logits: Tensor, inputs: Tensor) -> Tensor:
    """(B, min(outputs, inputs))"""
    rows = [
        torch.autograd.grad(logits[:, output].sum(), inputs, retain_graph=True)[0].flatten(1)
        for output in range(logits.shape[1])
    ]
    values: Tensor = torch.linalg.svdvals(torch.stack(rows, dim=1))
    return values


def _estimate(logits: Tensor, inputs: Tensor) -> JacobianIsometry:
    """From PROBES quadratures for each image; the error is that of their mean over the images."""
    images, outputs = logits.shape
    random = torch.Generator().manual_seed(0)
    zero = torch.zeros_like(logits, requires_grad=True)
    (back,) = torch.autograd.grad(logits, inputs, zero, create_graph=True)  # J^T zero: linear in `zero`

    def apply(v: Tensor) -> Tensor:
        """J J^T v for each image."""
        (u,) = torch.autograd.grad(logits, inputs, v.float(), retain_graph=True)
        return torch.autograd.grad(back, zero, u, retain_graph=True)[0].double()

    traces = []
    for _ in range(PROBES):
        sign = torch.randint(0, 2, logits.shape, generator=random).double().mul_(2).sub_(1)
        nodes, weights = _quadrature(apply, sign / math.sqrt(outputs))
        traces.append(outputs * (weights * nodes.clamp(min=0).sqrt()).sum(dim=1))
    means = torch.stack(traces) / min(outputs, inputs[0].numel())  # (PROBES, B)
    spread = float((means.var(dim=0).sum() / PROBES).sqrt()) / images
    error = float(student.ppf(0.975, images * (PROBES - 1))) * spread
    return JacobianIsometry(float(means.mean()), error, images)


def _quadrature(apply: Callable[[Tensor], Tensor], start: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights (B, k) of the Gauss quadrature that Lanczos makes of a symmetric operator at unit vectors
    (B, n): sum_i weights_i f(nodes_i) is about start^T f(A) start."""
    basis, diagonal, beside = [start], [], []
    for _ in range(min(STEPS, start.shape[1])):
        v = apply(basis[-1])
        diagonal.append((v * basis[-1]).sum(dim=1))
        for earlier in (*basis, *basis):  # twice: once leaves rounding errors that grow
            v = v - (v * earlier).sum(dim=1, keepdim=True) * earlier
        length = v.norm(dim=1)
        beside.append(length)
        basis.append(v / length.clamp(min=1e-30)[:, None])
    tridiagonal = torch.diag_embed(torch.stack(diagonal, dim=1))
    off = torch.stack(beside[:-1], dim=1) if len(beside) > 1 else tridiagonal.new_empty(len(start), 0)
    tridiagonal = tridiagonal + torch.diag_embed(off, offset=1) + torch.diag_embed(off, offset=-1)
    nodes, vectors = torch.linalg.eigh(tridiagonal)
    return nodes, vectors[:, 0].square()
