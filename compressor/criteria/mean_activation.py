"""Mean activation: channels that are nearly silent on samples are removed first. No labels are needed.

Molchanov, Tyree, Karras, Aila and Kautz, Pruning Convolutional Neural Networks for Resource Efficient Inference, ICLR
2017, arXiv:1611.06440, section 2.2.
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
class MeanActivation:
    """Score a channel by its mean absolute value, as the layers that read it see it."""

    name: ClassVar[str] = "mean_activation"
    needs_data: ClassVar[bool] = True

    images: int = 512
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
        return mean_over_maps(module, groups, list(batches), _mean_magnitude, context.training_data.batch_dims)


def _mean_magnitude(maps_BCr: Tensor) -> Tensor:
    """Mean over entries of a channel, (B, C)."""
    return maps_BCr.flatten(2).double().abs().mean(dim=2)


mean_activation = MeanActivation()
