"""L1-norm filter pruning: score each filter of the trained network by its mean |w|, remove the smallest, retrain.

Li, Kadav, Durdanovic, Samet and Graf, Pruning Filters for Efficient ConvNets, ICLR 2017, arXiv:1608.08710.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from compressor.budget.target import PruningTarget
from compressor.criteria.magnitude import l1, magnitude
from compressor.methods._regularization import Whole
from compressor.methods._unstructured import Unstructured
from compressor.methods.base import Method
from compressor.methods.beginning import Beginning
from compressor.steps.base import Step
from compressor.steps.reinitialize import Reinitialize
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels


class L1(Method):
    """Has no settings of its own: which layers, how much and how scores compare are the recipe's to say."""

    name: ClassVar[str] = "l1"

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        return SelectChannels(l1, selection), RemoveChannels()


class MagnitudeU(Unstructured, Method):
    name: ClassVar[str] = "magnitude-u"
    trained: ClassVar[bool] = True

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        return *self.begin(), self.mask(magnitude, selection)


class EfficientConvNets(Beginning, Method):
    name: ClassVar[str] = "efficientconvnets"

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        return *self.begin(), SelectChannels(l1, selection), RemoveChannels()


class Scratch(Method):
    name: ClassVar[str] = "scratch"
    needs_data: ClassVar[bool] = True

    equal: Literal["epochs", "flops"] = Field(default="epochs", description="what is the same as with pruning")
    dense_epochs: Whole = Field(default=0, description="epochs that the dense model was trained for, K1")

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        return SelectChannels(l1, selection), RemoveChannels(), Reinitialize(self.dense_epochs, self.equal == "flops")
