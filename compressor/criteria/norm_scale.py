"""Norm scales: the absolute factors by which normalizations multiply their channels.

Liu, Li, Shen, Huang, Yan and Zhang, Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017,
arXiv:1708.06519.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.criteria.base import WEIGHTS_ONLY, ScoringContext
from compressor.criteria.magnitude import mean_abs

if TYPE_CHECKING:
    from torch import nn

    from compressor.core import ChannelGroup, FloatArray


@dataclass(frozen=True, slots=True)
class NormScaleCriterion:
    """Score a channel by the mean `|scale|` of all normalizations that it passes through."""

    name: ClassVar[str] = "bn_scale"
    needs_data: ClassVar[bool] = False

    def score_channels(
        self, module: nn.Module, groups: Sequence[ChannelGroup], context: ScoringContext = WEIGHTS_ONLY
    ) -> Mapping[str, FloatArray]:
        """See `ChannelCriterion`.

        Args:
            module: The network.
            groups: The groups of its channels.
            context: Not used.

        Returns:
            Group name -> scores (C,). Groups whose channels pass no normalization are absent.
        """
        from compressor.criteria._aggregate import mean_over_norms

        return mean_over_norms(module, groups, mean_abs)


bn_scale = NormScaleCriterion()
