"""Early-Bird: train with an L1 penalty on BatchNorm scales until the smallest scales are those of the same channels.

You, Li, Xu, Fu, Wang, Chen, Baraniuk, Wang and Lin, Drawing Early-Bird Tickets: Towards More Efficient Training of Deep
Networks, ICLR 2020, arXiv:1909.11957. The loss is `loss + strength * sum |s|` over all scales s. Before each epoch a
mask keeps the channels with the largest |s|, which are compared over all layers (prune.scope: global). The training
ends once the newest mask differs from each of the four before it in no more than a share `distance` of the channels.
Then the channels with the smallest scales are removed.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

from pydantic import Field

from compressor.budget.target import PruningTarget, pruned_channel_share
from compressor.criteria.norm_scale import NormScaleCriterion
from compressor.errors import RecipeError
from compressor.field_types import Count, FormerKey, NonNegative, OpenFraction
from compressor.methods._training import EarlyTraining, slimming_penalty
from compressor.methods.base import Method
from compressor.steps.base import Step
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels
from compressor.training.early_stopping import EarlyStop
from compressor.training.stopping_rules import early_bird


class EarlyBird(Method, name="earlybird"):
    """Train until the mask is stable, then remove the channels with the smallest scales.

    Defaults are those published for CIFAR: SGD at 0.1, batches of 256, a weight decay of 1e-4. The epochs of this
    training are subtracted from the retraining.
    """

    training: EarlyTraining = EarlyTraining(
        epochs=80, optimizer="sgd", lr=0.1, weight_decay=1e-4, clip=None, count_toward_retraining=True
    )
    strength: NonNegative = Field(default=1e-4, description="factor on the sum of |scale|")
    masks: Annotated[Count, Field(ge=2)] = Field(default=5, description="number of newest masks that must agree")
    distance: OpenFraction = Field(default=0.1, description="share of the channels in which the masks may differ")
    ticket_ratio: Annotated[OpenFraction | None, FormerKey("drawn")] = Field(
        default=None,
        description="share of the channels that a mask leaves out; null = the share that the target removes",
    )

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        """Return the steps.

        Raises:
            RecipeError: Neither the target nor `ticket_ratio` says how many channels a mask leaves out.
        """
        removed = pruned_channel_share(target) if self.ticket_ratio is None else self.ticket_ratio
        if removed is None:
            problem = "it is null, and prune.target names no share that it could be derived from"
            place, hint = "prune.earlybird.ticket_ratio", "write a number, such as 0.5"
            raise RecipeError("recipe/not-derivable-from-target", place, problem, hint)
        stop = EarlyStop("early bird", partial(early_bird, removed=removed, masks=self.masks, distance=self.distance))
        return (
            self.training.step(stop, slimming_penalty(self.strength)),
            SelectChannels(NormScaleCriterion(), target),
            RemoveChannels(),
        )
