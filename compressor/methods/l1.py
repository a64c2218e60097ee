"""Magnitude pruning: remove the filters with the smallest mean |w|, or mask the smallest weights.

Li, Kadav, Durdanovic, Samet and Graf, Pruning Filters for Efficient ConvNets, ICLR 2017, arXiv:1608.08710 (filters of a
trained network, then retraining); Han, Pool, Tran and Dally, Learning both Weights and Connections, NeurIPS 2015,
arXiv:1506.02626 (single weights); Liu, Sun, Zhou, Huang and Darrell, Rethinking the Value of Network Pruning, ICLR
2019, arXiv:1810.05270 (the pruned architecture trained from scratch).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from compressor.budget.target import PruningTarget
from compressor.criteria.magnitude import l1, magnitude
from compressor.field_types import FormerKey, NonNegativeCount
from compressor.methods._shared import GlobalMask, Start, initial_weights
from compressor.methods.base import Method
from compressor.steps.base import Step
from compressor.steps.reinitialize import Reinitialize
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels


class L1(Method, name="l1", chooses_criterion=True):
    """Remove the filters with the smallest mean |w| from a trained network. It has no settings of its own."""

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        return SelectChannels(l1, target), RemoveChannels()


class MagnitudeU(Method, name="magnitude-u", unstructured=True):
    """Mask the smallest weights of a trained network."""

    start: Start = "given"
    mask: GlobalMask = GlobalMask()

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        return *initial_weights(self.start), self.mask.step(magnitude, target)


class EfficientConvNets(Method, name="efficientconvnets", trained=False):
    """Remove the filters with the smallest mean |w| before any training, as the literature on early pruning does."""

    start: Start = "given"

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        return *initial_weights(self.start), SelectChannels(l1, target), RemoveChannels()


class Scratch(Method, name="scratch", needs_retraining=True):
    """Train the pruned architecture from random weights, the baseline of every pruning method."""

    match: Annotated[Literal["epochs", "flops"], FormerKey("equal")] = Field(
        default="epochs",
        description="epochs = as many epochs as dense training and retraining together; flops = as many multiply-adds",
    )
    dense_epochs: NonNegativeCount = Field(default=0, description="epochs that the dense model was trained for")

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        return SelectChannels(l1, target), RemoveChannels(), Reinitialize(self.dense_epochs, self.match == "flops")
