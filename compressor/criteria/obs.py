"""Group OBS: the error that removing a channel leaves in all layers that read it, after their best refit.

Hassibi and Stork, Second order derivatives for network pruning: Optimal Brain Surgeon, NeurIPS 1992; Meng, Behdin, Wang
and Mazumder, OSSCAR, arXiv:2403.12983. The formula is in `error_curves.elimination`. It needs samples, not labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.core import ErrorCurve
from compressor.criteria.base import WEIGHTS_ONLY, ScoringContext

if TYPE_CHECKING:
    from torch import nn

    from compressor.core import ChannelGroup, FloatArray


BY_MAGNITUDE = "its layers are not seen on samples: channels are compared by magnitude"


@dataclass(frozen=True, slots=True)
class GroupOBS:
    """Score a channel by what its removal adds to the error, in the order of a backward elimination."""

    name: ClassVar[str] = "obs"
    needs_data: ClassVar[bool] = True

    images: int = 1024
    batch_size: int = 64

    def score_channels(
        self, module: nn.Module, groups: Sequence[ChannelGroup], context: ScoringContext = WEIGHTS_ONLY
    ) -> Mapping[str, FloatArray]:
        """See `ChannelCriterion`. A score is at least that of the channel removed before.

        Args:
            module: The network, in eval mode.
            groups: The groups of its channels.
            context: Data and seed.

        Returns:
            Group name -> scores (C,), shares of the variance of the readers' outputs.
        """
        from compressor.error_curves.curves import error_curves, scores_along
        from compressor.tensors import as_arguments

        data = context.training_data
        batches = [as_arguments(inputs) for inputs in data.calibration_batches(self.batch_size, images=self.images)]
        curves = error_curves(module, groups, batches, seed=context.seed, batch_dims=data.batch_dims)
        curves = magnitude_curves(module, groups) | curves
        return {name: scores_along(curve) for name, curve in curves.items()}


def magnitude_curves(module: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, ErrorCurve]:
    """Guess the error of groups whose layers are not seen on samples: the removed share of squared mean magnitudes.

    Args:
        module: The network.
        groups: The groups of its channels.

    Returns:
        Group name -> curve, for every group that is not frozen.
    """
    import numpy as np

    from compressor.criteria.magnitude import l1

    curves = {}
    for name, scores_C in l1.score_channels(module, groups).items():
        order = np.argsort(scores_C, kind="stable")
        removed = (scores_C[order] ** 2).cumsum()
        errors = np.concatenate([[0.0], removed[:-1] / max(float(removed[-1]), 1e-300)])
        curves[name] = ErrorCurve(order, errors, note=BY_MAGNITUDE)
    return curves


obs = GroupOBS()
