"""First and second moments of a layer's inputs and targets, summed over batches in float64.

Shapes: R samples of a batch, G groups of a convolution (1 for most layers), n input columns, o output rows of a group.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Statistics:
    """Means and centred second moments, divided by the number of samples."""

    count: int
    mean_x: Tensor  # (G, n)
    mean_y: Tensor  # (G, o)
    xx: Tensor  # (G, n, n)
    yx: Tensor  # (G, o, n)
    yy: Tensor  # (G, o), variances

    def uncentred(self) -> Statistics:
        """The same about zero: what a layer without an intercept is fitted to."""
        x, y = self.mean_x, self.mean_y
        return Statistics(
            self.count,
            torch.zeros_like(x),
            torch.zeros_like(y),
            self.xx + x.unsqueeze(-1) * x.unsqueeze(-2),
            self.yx + y.unsqueeze(-1) * x.unsqueeze(-2),
            self.yy + y.square(),
        )

    def merged(self, other: Statistics) -> Statistics:
        """The statistics of both sets of samples together."""
        count = self.count + other.count
        a, b = self.count / count, other.count / count
        x, y = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        return Statistics(
            count,
            self.mean_x + b * x,
            self.mean_y + b * y,
            a * self.xx + b * other.xx + a * b * x.unsqueeze(-1) * x.unsqueeze(-2),
            a * self.yx + b * other.yx + a * b * y.unsqueeze(-1) * x.unsqueeze(-2),
            a * self.yy + b * other.yy + a * b * y.square(),
        )

    def with_ridge(self, ridge: float) -> Statistics:
        """The same with `ridge` times the mean input variance on the diagonal of `xx`."""
        diagonal = self.xx.diagonal(dim1=-2, dim2=-1)
        strength = (ridge * diagonal.mean(-1, keepdim=True)).expand_as(diagonal)
        return replace(self, xx=self.xx + torch.diag_embed(strength))


class Moments:
    """Sums about a shift, the mean of the first batch, so that large means cancel no digits."""

    def __init__(self) -> None:
        self.count = 0
        self._sums: tuple[Tensor, ...] = ()
        self._shift: tuple[Tensor, Tensor] | None = None

    def add(self, x_RGn: Tensor, y_RGo: Tensor) -> None:
        """Add a batch of samples. Products are taken in the samples' own precision, sums in float64.

        Args:
            x_RGn: Inputs (R, G, n).
            y_RGo: Targets (R, G, o).
        """
        if self._shift is None:
            self._shift = x_RGn.mean(0), y_RGo.mean(0)
        x = (x_RGn - self._shift[0]).transpose(0, 1)
        y = (y_RGo - self._shift[1]).transpose(0, 1)
        parts = (
            x.sum(1, dtype=torch.float64),
            y.sum(1, dtype=torch.float64),
            (x.mT @ x).double(),
            (y.mT @ x).double(),
            y.square().sum(1, dtype=torch.float64),
        )
        self._sums = tuple(a.add_(b) for a, b in zip(self._sums, parts, strict=True)) if self._sums else parts
        self.count += len(x_RGn)

    def statistics(self) -> Statistics:
        """Means and centred moments of everything added."""
        assert self._shift is not None, "no samples were added"
        x, y, xx, yx, yy = (total / self.count for total in self._sums)
        return Statistics(
            self.count,
            x + self._shift[0].double(),
            y + self._shift[1].double(),
            xx - x.unsqueeze(-1) * x.unsqueeze(-2),
            yx - y.unsqueeze(-1) * x.unsqueeze(-2),
            (yy - y.square()).clamp_min(0),
        )
