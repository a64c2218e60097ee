"""First-order Taylor expansion of the loss: what its square changes by, batch by batch, when a channel is removed.

Molchanov, Mallya, Tyree, Frosio and Kautz, Importance Estimation for Neural Network Pruning, CVPR 2019,
arXiv:1906.10771, equation 8, with the sum over a channel's weights inside the square. Without labels the answers are
drawn from the model itself, see `_sampled_answers`.
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
class TaylorFO:
    """Score a channel by `sum_b (sum_w w dL_b/dw)^2`, over batches b and the weights w that write the channel."""

    name: ClassVar[str] = "taylor"
    needs_data: ClassVar[bool] = True

    batches: int = 16
    batch_size: int = 64

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
        scores = dict[str, "FloatArray"]()
        for loss in losses:
            gradients = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True, allow_unused=True)
            products = {name: p.detach() * g for (name, p), g in zip(parameters.items(), gradients, strict=True)}
            for name, sums_C in sum_over_writers(groups, products, signed=True).items():
                scores[name] = scores.get(name, 0.0) + sums_C**2
        return scores


taylor = TaylorFO()
