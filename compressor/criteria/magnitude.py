"""Magnitude: the absolute values of weights, by filter or one by one.

Li, Kadav, Durdanovic, Samet and Graf, Pruning Filters for Efficient ConvNets, ICLR 2017, arXiv:1608.08710.
Han, Pool, Tran and Dally, Learning both Weights and Connections, NeurIPS 2015, arXiv:1506.02626.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.criteria.base import WEIGHTS_ONLY, ScoringContext

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressor.core import ChannelGroup, FloatArray


def mean_abs(rows_NK: Tensor) -> Tensor:
    """Mean absolute weight of each filter, `mean_k |w_nk|`, shape (N,).

    The mean keeps the order that the sum gives within a layer, and makes layers of different fan-in comparable.
    """
    return rows_NK.abs().mean(dim=1)


@dataclass(frozen=True, slots=True)
class FilterMagnitude:
    """Score a channel by the mean absolute weight of the filters that write it."""

    name: ClassVar[str] = "l1"
    needs_data: ClassVar[bool] = False

    def score_channels(
        self, module: nn.Module, groups: Sequence[ChannelGroup], context: ScoringContext = WEIGHTS_ONLY
    ) -> Mapping[str, FloatArray]:
        """See `ChannelCriterion`; for a group that one layer writes, the scores are `mean_abs` of its filters.

        Args:
            module: The network.
            groups: The groups of its channels.
            context: Not used.

        Returns:
            Group name -> scores (C,).
        """
        from compressor.criteria._aggregate import mean_over_writers

        return mean_over_writers(module, groups, mean_abs)


@dataclass(frozen=True, slots=True)
class WeightMagnitude:
    """Score a weight by its absolute value."""

    name: ClassVar[str] = "magnitude"
    needs_data: ClassVar[bool] = False

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
            weights: Tensor name -> values.
            masks: Not used.
            context: Not used.

        Returns:
            Tensor name -> |w|.
        """
        return {name: weight.abs() for name, weight in weights.items()}


l1 = FilterMagnitude()
magnitude = WeightMagnitude()
