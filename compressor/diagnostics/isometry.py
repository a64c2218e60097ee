"""Isometry of the Jacobian, a measure of how well a network can be trained."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.special import stdtrit
from torch import Tensor, nn

from compressor.core import JacobianIsometry
from compressor.execution.copies import copy_module

EXACT = 128  # outputs up to which the complete Jacobian is computed
PROBES, STEPS = 4, 10  # random vectors per image, and Lanczos steps per vector
PASSES = 4 * PROBES * STEPS  # equivalent forward passes; a step is a backward pass and its backward pass
IMAGES = 32  # at most
BUDGET = 2e11  # multiply-adds that all images together may cost


def sample_size(outputs: int, macs: int) -> int:
    """Compute how many images to use, so that they cost about 2e11 multiply-adds.

    Args:
        outputs: The number of logits.
        macs: Multiply-adds of one forward pass.

    Returns:
        1 to 32.
    """
    passes = 2 * outputs if outputs <= EXACT else PASSES
    return int(min(IMAGES, max(1, BUDGET // (passes * macs))))


def jacobian_isometry(module: nn.Module, images: Tensor, macs: int) -> JacobianIsometry | None:
    """Compute the mean singular value of the Jacobian d logits / d input in eval mode; 1 = lengths are preserved.

    Up to 128 outputs, the Jacobian is computed with one backward pass per output and decomposed. Beyond,
    `tr (J J^T)^(1/2) / min(outputs, inputs)` is estimated by stochastic Lanczos quadrature with 4 random sign vectors
    and 10 steps each (Ubaru, Chen and Saad, SIAM J. Matrix Anal. Appl. 38(4), 2017). The error covers the random
    vectors and the quadrature.

    Args:
        module: The network.
        images: (B, C, H, W); the first `sample_size` of them are used.
        macs: Multiply-adds of one forward pass.

    Returns:
        The mean with its error; None if the network does not return a row of logits per image.
    """
    module = copy_module(module).eval().requires_grad_(False)
    output = module(images[:1])
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != 1:
        return None
    inputs = images[: sample_size(output.shape[1], macs)].clone().requires_grad_()
    logits = module(inputs)
    if logits.shape[1] <= EXACT:
        return JacobianIsometry(float(_singular_values(logits, inputs).mean()), 0.0, len(inputs))
    return _estimate(logits, inputs)


def _singular_values(logits: Tensor, inputs: Tensor) -> Tensor:
    """Compute all singular values, (B, min(outputs, inputs))."""
    rows = [
        torch.autograd.grad(logits[:, output].sum(), inputs, retain_graph=True)[0].flatten(1)
        for output in range(logits.shape[1])
    ]
    values: Tensor = torch.linalg.svdvals(torch.stack(rows, dim=1))
    return values


def _estimate(logits: Tensor, inputs: Tensor) -> JacobianIsometry:
    """Estimate the mean from PROBES quadratures per image. The error is that of the mean over the images.

    It adds the 95 % interval of the random vectors and half of the distance between the bounds of the quadratures.
    """
    images, outputs = logits.shape
    random = torch.Generator().manual_seed(0)
    zero = torch.zeros_like(logits, requires_grad=True)
    (vjp,) = torch.autograd.grad(logits, inputs, zero, create_graph=True)  # J^T zero: linear in `zero`

    def apply(v: Tensor) -> Tensor:
        """Compute J J^T v for each image."""
        (u,) = torch.autograd.grad(logits, inputs, v.float(), retain_graph=True)
        return torch.autograd.grad(vjp, zero, u, retain_graph=True)[0].double()

    bounds = []
    for _ in range(PROBES):
        sign = torch.randint(0, 2, logits.shape, generator=random).double().mul_(2).sub_(1)
        bounds.append(outputs * torch.stack(_bounds_of_sqrt(apply, sign / math.sqrt(outputs))))
    lower, upper = torch.stack(bounds, dim=1) / min(outputs, inputs[0].numel())  # (PROBES, B) each
    means = (lower + upper) / 2
    spread = float((means.var(dim=0).sum() / PROBES).sqrt()) / images
    error = float(stdtrit(images * (PROBES - 1), 0.975)) * spread + float((upper - lower).mean()) / 2
    return JacobianIsometry(float(means.mean()), error, images)


def _bounds_of_sqrt(apply: Callable[[Tensor], Tensor], start: Tensor) -> tuple[Tensor, Tensor]:
    """Bound `start^T A^(1/2) start` of symmetric positive semidefinite operators A at unit vectors `start` (B, n).

    Gauss quadrature of the square root is an upper bound and Gauss-Radau quadrature with a node at 0 a lower one, by
    the signs of its derivatives. Many singular values are 0 where there are more outputs than features; Gauss alone
    is up to a tenth too high there. Golub and Meurant, Matrices, Moments and Quadrature, Princeton 2010, section 6.2.

    Returns:
        The lower and the upper bounds (B,).
    """
    basis, diagonal, off_diagonal = [start], [], []
    for _ in range(min(STEPS, start.shape[1])):  # Lanczos iteration
        v = apply(basis[-1])
        diagonal.append((v * basis[-1]).sum(dim=1))
        for earlier in (*basis, *basis):  # twice, because rounding errors of a single pass grow
            v = v - (v * earlier).sum(dim=1, keepdim=True) * earlier
        length = v.norm(dim=1)
        off_diagonal.append(length)
        basis.append(v / length.clamp(min=1e-30)[:, None])
    nodes, vectors = _decomposed(diagonal, off_diagonal[:-1])
    upper = (vectors[:, 0].square() * nodes.sqrt()).sum(dim=1)
    # The last diagonal entry makes 0 an eigenvalue: beta^2 times the last entry of the inverse of the matrix before it.
    inverse = 1 / nodes.clamp(min=1e-12 * float(nodes.max()) + 1e-300)
    last = off_diagonal[-1].square() * (vectors[:, -1].square() * inverse).sum(dim=1)
    nodes, vectors = _decomposed([*diagonal, last], off_diagonal)
    return (vectors[:, 0].square() * nodes.sqrt()).sum(dim=1), upper


def _decomposed(diagonal: list[Tensor], off_diagonal: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Compute eigenvalues (B, k), rounding errors below 0 removed, and eigenvectors of tridiagonal matrices."""
    tridiagonal = torch.diag_embed(torch.stack(diagonal, dim=1))
    if off_diagonal:
        off = torch.stack(off_diagonal, dim=1)
        tridiagonal = tridiagonal + torch.diag_embed(off, offset=1) + torch.diag_embed(off, offset=-1)
    nodes, vectors = torch.linalg.eigh(tridiagonal)
    return nodes.clamp(min=0), vectors
