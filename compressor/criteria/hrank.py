"""HRank: the rank of a channel's feature maps, averaged over samples. No labels are needed.

Lin, Ji, Wang, Zhang, Zhang, Tian and Shao, HRank: Filter Pruning using High-Rank Feature Map, CVPR 2020,
arXiv:2002.10179, equation 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.criteria.base import WEIGHTS_ONLY, ScoringContext

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressor.core import ChannelGroup, FloatArray


@dataclass(frozen=True, slots=True)
class FeatureMapRank:
    """Score a channel by the mean rank of its feature maps, as the layers that read it see them.

    The paper takes 500 images. A map of other than two dimensions counts as a matrix of its last dimension and the
    others; channels of equal rank are ordered by their mean square, which stays below one rank.
    """

    name: ClassVar[str] = "hrank"
    needs_data: ClassVar[bool] = True

    images: int = 128
    batch_size: int = 64

    def score_channels(
        self, module: nn.Module, groups: Sequence[ChannelGroup], context: ScoringContext = WEIGHTS_ONLY
    ) -> Mapping[str, FloatArray]:
        """See `ChannelCriterion`.

        Args:
            module: The network, in eval mode.
            groups: The groups of its channels.
            context: Its data.

        Returns:
            Group name -> scores (C,). Groups that no convolution or linear layer reads or writes are absent.
        """
        from compressor.error_curves.channel_maps import mean_over_maps

        batches = context.training_data.calibration_batches(self.batch_size, images=self.images)
        return mean_over_maps(module, groups, list(batches), map_rank, context.training_data.batch_dims)


def map_rank(maps_BCr: Tensor) -> Tensor:
    """Rank of every feature map, plus less than one thousandth for its energy.

    Args:
        maps_BCr: Values (B, C, r, ...), r entries for each channel.

    Returns:
        Scores (B, C).
    """
    import torch

    maps = maps_BCr.float()
    maps = maps.reshape(*maps.shape[:2], -1, maps.shape[-1]) if maps.ndim > 3 else maps.unsqueeze(2)
    energy = maps.double().square().mean(dim=(2, 3))
    scores: Tensor = torch.linalg.matrix_rank(maps).double() + 1e-3 * energy / (1 + energy)
    return scores


hrank = FeatureMapRank()
