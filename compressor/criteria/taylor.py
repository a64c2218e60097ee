"""First-order Taylor expansion of the loss: what its square changes by, batch by batch, when a channel is removed.

Molchanov, Mallya, Tyree, Frosio and Kautz, Importance Estimation for Neural Network Pruning, CVPR 2019,
arXiv:1906.10771, equation 8, with the sum over a channel's weights inside the square. Without labels the answers are
drawn from the model itself, see `sampled_answers`.
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

        from compressor.criteria.aggregate import sum_over_writers
        from compressor.criteria.gradient import writing_parameters
        from compressor.criteria.sampled_answers import answer_losses
        from compressor.execution.copies import copy_module
        from compressor.training.train_step import unfreeze

        network, data = copy_module(module).eval(), context.training_data
        unfreeze(network)
        parameters = writing_parameters(network, groups)
        scores = dict[str, "FloatArray"]()
        for loss in answer_losses(network, data, self.batch_size, self.batches, context.seed, context.round):
            gradients = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True, allow_unused=True)
            products = {name: p.detach() * g for (name, p), g in zip(parameters.items(), gradients, strict=True)}
            for name, sums_C in sum_over_writers(groups, products, signed=True).items():
                scores[name] = scores.get(name, 0.0) + sums_C**2
        return scores


taylor = TaylorFO()
