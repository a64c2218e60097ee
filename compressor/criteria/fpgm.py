"""FPGM: filters near the geometric median of their layer can be replaced by the others.

He, Liu, Wang, Hu and Yang, Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration,
CVPR 2019, arXiv:1811.00250, equation 6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.criteria.base import WEIGHTS_ONLY, ScoringContext

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressor.core import ChannelGroup, FloatArray


def mean_distance(rows_NK: Tensor) -> Tensor:
    """Mean Euclidean distance of each filter to all filters of its layer, `mean_j |w_i - w_j|`, shape (N,).

    The paper has the sum, which ranks alike within a layer.
    """
    import torch

    return torch.cdist(rows_NK, rows_NK, compute_mode="donot_use_mm_for_euclid_dist").mean(dim=1)


@dataclass(frozen=True, slots=True)
class GeometricMedian:
    """Score a channel by the mean distance of its filters to the other filters of the layers that write it."""

    name: ClassVar[str] = "fpgm"
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
            Group name -> scores (C,).
        """
        from compressor.criteria._aggregate import mean_over_writers

        return mean_over_writers(module, groups, mean_distance)


fpgm = GeometricMedian()
