"""LAMP: the squared norm of a channel over that of all channels that are removed after it.

Lee, Park, Mo, Ahn and Shin, Layer-adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021, arXiv:2010.07611,
equation 3, with the squared norms of filters for squared weights. The largest channel of every group scores 1, so that
scores of different groups can be compared: use it with `scope: global`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.criteria.base import WEIGHTS_ONLY, ScoringContext

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressor.core import ChannelGroup, FloatArray


def lamp_scores(squares_C: FloatArray) -> FloatArray:
    """Divide each square by the sum of all that are not smaller, `s_u / sum_{s_v >= s_u} s_v`; ties by index.

    Args:
        squares_C: Squared norms (C,).

    Returns:
        Scores (C,) from 0 to 1, in the order of the squares.
    """
    import numpy as np

    order = np.argsort(squares_C, kind="stable")
    ranked = squares_C[order]
    rest = ranked[::-1].cumsum()[::-1]
    scores = np.empty_like(ranked)
    scores[order] = np.where(rest > 0, ranked / np.where(rest > 0, rest, 1.0), 0.0)
    return scores


@dataclass(frozen=True, slots=True)
class LayerAdaptiveMagnitude:
    """Score a channel by `lamp_scores` of the squared norms of the filters that write it."""

    name: ClassVar[str] = "lamp"
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

        squares = mean_over_writers(module, groups, _mean_square)
        return {name: lamp_scores(squares_C) for name, squares_C in squares.items()}


def _mean_square(rows_NK: Tensor) -> Tensor:
    return rows_NK.square().mean(dim=1)


lamp = LayerAdaptiveMagnitude()
