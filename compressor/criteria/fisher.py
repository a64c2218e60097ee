"""Optimal Brain Damage with the diagonal of the Fisher information: half its value times each weight's square.

LeCun, Denker and Solla, Optimal Brain Damage, NeurIPS 1989; Theis, Korshunova, Tejani and Huszár, Faster gaze
prediction with dense networks and Fisher pruning, arXiv:1801.05787.

    score of a channel = 1/2 sum_w w^2 F_ww      F_ww = B mean_b (dL_b/dw)^2

over the weights and biases that write it, with L_b the mean loss of batch b and B its size. Where answers are drawn
from the model itself, gradients have mean zero and this estimates the Fisher information without bias. Labels are used
where there are any; then it is exact only as far as the model fits them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.criteria.base import WEIGHTS_ONLY, ScoringContext

if TYPE_CHECKING:
    from torch import nn

    from compressor.core import ChannelGroup, FloatArray


@dataclass(frozen=True, slots=True)
class FisherDiagonal:
    """Score a channel by the rise of the loss that the Fisher diagonal predicts for its removal."""

    name: ClassVar[str] = "fisher"
    needs_data: ClassVar[bool] = True

    batches: int = 64
    batch_size: int = 16

    def score_channels(
        self, module: nn.Module, groups: Sequence[ChannelGroup], context: ScoringContext = WEIGHTS_ONLY
    ) -> Mapping[str, FloatArray]:
        """See `ChannelCriterion`.

        Args:
            module: The network; a copy runs in eval mode.
            groups: The groups of its channels.
            context: Data, seed and round.

        Returns:
            Group name -> scores (C,).
        """
        import torch

        from compressor.criteria._aggregate import sum_over_writers
        from compressor.criteria._sampled_answers import writers_and_losses

        parameters, losses = writers_and_losses(module, groups, context, self.batch_size, self.batches)
        squares = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        count = 0
        for loss in losses:
            gradients = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True, allow_unused=True)
            for total, gradient in zip(squares.values(), gradients, strict=True):
                total += gradient.square()
            count += 1
        factor = self.batch_size / (2 * max(1, count))
        entries = {name: factor * p.detach().square() * squares[name] for name, p in parameters.items()}
        return sum_over_writers(groups, entries, signed=True)


fisher = FisherDiagonal()
