"""Early-bird tickets: train with an L1 penalty on the scales of normalisations until the channels with the smallest
are the same from epoch to epoch, take them out, and go on from there.

You et al., Drawing Early-Bird Tickets: Towards More Efficient Training of Deep Networks, ICLR 2020, arXiv:1909.11957:
`loss + strength * sum |g|`, and a mask of the channels with the largest |g| before each epoch, of all layers compared
with each other (prune.scope: global). The ticket is drawn once the newest mask differs from each of the four before it
in no more than a share `distance` of the channels.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, ClassVar, Literal

from pydantic import Field, Strict

from compressor.budget.target import PruningTarget, pruned_channel_share
from compressor.criteria.norm_scale import NormScaleCriterion
from compressor.errors import RecipeError
from compressor.methods._early_training import OpenShare, Pretraining
from compressor.methods._regularization import Count, NotNegative, Positive, Truth
from compressor.methods.base import Method
from compressor.steps.base import Step
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels
from compressor.training.early_stopping import EarlyStop
from compressor.training.penalty import Penalty, PenaltyTerm
from compressor.training.penalty_terms import constant_strength, l1_norm
from compressor.training.stopping_rules import early_bird


class EarlyBird(Pretraining, Method):
    """SGD at 0.1, batches of 256 and decay of 1e-4, as published for CIFAR; what it takes is taken off the
    retraining."""

    name: ClassVar[str] = "earlybird"
    needs_data: ClassVar[bool] = True

    epochs: Count = Field(default=80, description="of training before anything goes, at most")
    optimizer: Literal["adam", "sgd"] = "sgd"
    lr: Positive = 0.1
    weight_decay: NotNegative = 1e-4
    clip: Positive | None = Field(default=None, description="largest norm of all gradients together; null = any")
    counted: Truth = Field(
        default=True, description="take these epochs off retrain.epochs, so that both together last as long as it says"
    )
    strength: NotNegative = Field(default=1e-4, description="factor on the sum of |scale|")
    masks: Annotated[int, Strict(), Field(ge=2)] = Field(
        default=5, description="the newest and those it is compared with"
    )
    distance: OpenShare = Field(default=0.1, description="share of channels in which masks may differ")
    drawn: OpenShare | None = Field(
        default=None, description="share of channels that masks leave out; null = what the target takes"
    )

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        """Raises RecipeError where neither the target nor `drawn` says how many channels masks leave out."""
        removed = pruned_channel_share(selection) if self.drawn is None else self.drawn
        if removed is None:
            found = "null, and prune.target names no share that it could follow from"
            raise RecipeError("recipe", "prune.earlybird.drawn", found, "write a number, such as 0.5")
        settled = partial(early_bird, removed=removed, masks=self.masks, distance=self.distance)
        slimming = Penalty(
            "L1 on scales",
            (PenaltyTerm(l1_norm, partial(constant_strength, value=self.strength), applies_to="scales"),),
        )
        return (
            self.pretrain(EarlyStop("early bird", settled), slimming),
            SelectChannels(NormScaleCriterion(), selection),
            RemoveChannels(),
        )
