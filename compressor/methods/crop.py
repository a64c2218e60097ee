"""What the methods that preserve gradient flow have in common: how a weight's part in it is scored."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, Field

from compressor.budget.target import PruningTarget
from compressor.criteria.gradient import GradientCriterion, crop, crop_gated
from compressor.methods._early_training import LazyRegime
from compressor.methods._iterative import in_rounds
from compressor.methods._regularization import Count, Truth
from compressor.methods._unstructured import Unstructured, halving_weight_shares, target_share
from compressor.methods.base import Method
from compressor.methods.beginning import Beginning, ByGradients
from compressor.steps.base import Step
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels


class Flowing(BaseModel):
    """With the network in eval mode: statistics of the batch would undo any gate before a BatchNorm."""

    score: Literal["pure", "gated"] = Field(
        default="pure",
        description="of a channel: pure = |sum of w (H g)| over its weights, as in the paper; gated = with g g added "
        "to each, as the released code computes it",
    )

    def flow(self, batches: int, batch_size: int) -> GradientCriterion:
        value = crop if self.score == "pure" else crop_gated
        return GradientCriterion("crop", value, order=2, batches=batches, batch_size=batch_size)


class CropS(Flowing, ByGradients, Method):
    name: ClassVar[str] = "crop-s"

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        return *self.begin(), SelectChannels(self.flow(self.batches, self.batch_size), selection), RemoveChannels()


class CropitS(Flowing, ByGradients, Method):
    name: ClassVar[str] = "cropit-s"

    halvings: Count = Field(default=5, description="of what is still to go; the rounds are two more")

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        return *self.begin(), *in_rounds(self.flow(self.batches, self.batch_size), selection, self.halvings)


def crop_weights(batches: int, batch_size: int) -> GradientCriterion:
    """With the network in eval mode."""
    return GradientCriterion("crop", crop, order=2, batches=batches, batch_size=batch_size)


class CropU(ByGradients, Unstructured, Method):
    name: ClassVar[str] = "crop-u"

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        return *self.begin(), self.mask(crop_weights(self.batches, self.batch_size), selection)


class CropitU(ByGradients, Unstructured, Method):
    name: ClassVar[str] = "cropit-u"

    halvings: Count = Field(default=5, description="of what is still to go; the rounds are two more")

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        criterion = crop_weights(self.batches, self.batch_size)
        return *self.begin(), self.mask(
            criterion, selection, halving_weight_shares(target_share(selection), self.halvings)
        )


class EarlyCropS(Flowing, LazyRegime, Beginning, Method):
    """`batch_size` is that of the early training, and of the batches that scores come from."""

    name: ClassVar[str] = "earlycrop-s"
    needs_data: ClassVar[bool] = True

    batches: Count = Field(default=5, description="of training images that scores come from")
    iterative: Truth = Field(default=False, description="channels go in 7 rounds, scored anew each time")

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        """Raises RecipeError where neither the target nor `patience` says how settled the weights must be."""
        flow = self.flow(self.batches, self.batch_size)
        cut = in_rounds(flow, selection) if self.iterative else (SelectChannels(flow, selection), RemoveChannels())
        return *self.begin(), self.until_channels_can_go(selection), *cut


class EarlyCropU(LazyRegime, Unstructured, Method):
    """`batch_size` is that of the early training, and of the batches that scores come from."""

    name: ClassVar[str] = "earlycrop-u"
    needs_data: ClassVar[bool] = True

    batches: Count = Field(default=5, description="of training images that scores come from")
    halvings: Count = Field(default=5, description="of what is still to go; the rounds are two more")

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        """Raises RecipeError where neither the target nor `patience` says how settled the weights must be."""
        criterion = crop_weights(self.batches, self.batch_size)
        masks = self.mask(criterion, selection, halving_weight_shares(target_share(selection), self.halvings))
        return *self.begin(), self.until_weights_can_go(selection), masks
