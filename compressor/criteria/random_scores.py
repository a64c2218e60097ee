"""Random scores: the baseline that every other criterion has to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.criteria.base import WEIGHTS_ONLY, ScoringContext

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressor.core import ChannelGroup, FloatArray


@dataclass(frozen=True, slots=True)
class RandomScores:
    """Score filters or single weights by uniform random numbers in [0, 1), which the run's seed determines."""

    name: ClassVar[str] = "random"
    needs_data: ClassVar[bool] = False

    def score_channels(
        self, module: nn.Module, groups: Sequence[ChannelGroup], context: ScoringContext = WEIGHTS_ONLY
    ) -> Mapping[str, FloatArray]:
        """See `ChannelCriterion`.

        Args:
            module: The network.
            groups: The groups of its channels.
            context: Its seed is used.

        Returns:
            Group name -> scores (C,), the mean over the layers that write the group.
        """
        from compressor.criteria._aggregate import mean_over_writers
        from compressor.execution.randomness import equal_randomness

        with equal_randomness(context.seed):
            return mean_over_writers(module, groups, lambda rows_NK: rows_NK.new_empty(len(rows_NK)).uniform_())

    def score_weights(
        self,
        module: nn.Module,
        weights: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        context: ScoringContext = WEIGHTS_ONLY,
    ) -> Mapping[str, Tensor]:
        """See `WeightCriterion`.

        Args:
            module: Not used.
            weights: Tensor name -> values, whose shapes are used.
            masks: Not used.
            context: Its seed is used.

        Returns:
            Tensor name -> float64 scores.
        """
        from compressor.execution.randomness import equal_randomness

        with equal_randomness(context.seed):
            return {name: weight.new_empty(weight.shape).double().uniform_() for name, weight in weights.items()}


random_scores = RandomScores()
