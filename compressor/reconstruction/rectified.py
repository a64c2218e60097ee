"""The fit of a layer in front of a ReLU, which passes only part of the error on.

Where the dense model is negative before the ReLU, any negative value serves as well:

    minimize over W, b   mean ( zh - z )^2 where z > 0,  max(zh, 0)^2 elsewhere

with z the dense value before the ReLU and zh the slim one. The solution alternates: targets of negative entries move to
the layer's present output, min(zh, 0), and the least-squares fit to these targets follows. No step raises the loss
(Zhang, Zou, He and Sun, Accelerating Very Deep Convolutional Networks, PAMI 2016, arXiv:1505.06798, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compressor.reconstruction.moments import Statistics
from compressor.reconstruction.solve import SolverFor, intercept


@dataclass(frozen=True, slots=True)
class RectifiedSamples:
    """Samples of a layer with one group. The ReLU reads x W^T, scaled, plus an offset."""

    x: Tensor  # (R, n)
    dense: Tensor  # (R, o), before the ReLU
    offset: Tensor  # (R, o), the shift of a BatchNorm and the shortcut
    scale: Tensor  # (o,)

    def __getitem__(self, part: slice) -> RectifiedSamples:
        """Select samples."""
        return RectifiedSamples(self.x[part], self.dense[part], self.offset[part], self.scale)

    def loss(self, weight: Tensor, bias: Tensor) -> float:
        """Compute the mean squared error behind the ReLU, summed over outputs.

        Args:
            weight: (o, n).
            bias: (o,).

        Returns:
            The loss.
        """
        slim = self.before_relu(weight, bias)
        through = torch.where(self.dense > 0, slim - self.dense, slim.clamp_min(0))
        return float(through.square().sum(dtype=torch.float64)) / len(self.x)

    def before_relu(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Compute the values that the ReLU reads.

        Args:
            weight: (o, n).
            bias: (o,).

        Returns:
            (R, o).
        """
        scale = self.scale.double()
        values = torch.addmm(self.offset, self.x, (weight * scale.unsqueeze(1)).to(self.x).T)
        return values.add_((bias * scale).to(self.x))

    def targets(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Compute what the scaled output of the layer is fitted to in the next step.

        Args:
            weight: (o, n) of the last step.
            bias: (o,) of the last step.

        Returns:
            (R, o), the targets of the layer's output times `scale`.
        """
        slim = self.before_relu(weight, bias).clamp_max_(0)
        torch.where(self.dense > 0, self.dense, slim, out=slim)
        return slim.sub_(self.offset)


def fit_rectified(
    samples: RectifiedSamples,
    statistics: Statistics,
    start: tuple[Tensor, Tensor],
    weight: Tensor,
    *,
    ridge: float,
    solver: SolverFor,
    turns: int = 6,
) -> tuple[Tensor, Tensor]:
    """Improve a least-squares fit for the ReLU behind the layer.

    Args:
        samples: What the fit is made from.
        statistics: Their moments.
        start: Weight (1, o, n) and bias (1, o) of the least-squares fit.
        weight: W0 (1, o, n), which the ridge pulls towards.
        ridge: Relative to the mean input variance.
        solver: How the systems are solved.
        turns: How often targets move.

    Returns:
        Weight and bias of the last turn.
    """
    solved, bias = start
    scale, count = samples.scale.double(), len(samples.x)
    centred = samples.x - statistics.mean_x[0].to(samples.x)
    remainder = centred.sum(0, dtype=torch.float64)  # zero but for rounding
    for _ in range(turns):
        targets = samples.targets(solved[0], bias[0])
        mean_y = targets.sum(0, dtype=torch.float64) / count
        yx = ((targets.T @ centred).double() - torch.outer(mean_y, remainder)) / count
        moved = replace(statistics, yx=(yx / scale.unsqueeze(1)).unsqueeze(0), mean_y=(mean_y / scale).unsqueeze(0))
        solved = solver(moved, weight)(ridge)
        bias = intercept(moved, solved)
    return solved, bias
