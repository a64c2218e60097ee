"""CroP, CroPit and EarlyCroP: prune by gradient flow, at initialization or early in training.

Rachwan, Zügner, Charpentier, Geisler, Ayle and Günnemann, Winning the Lottery Ahead of Time: Efficient Early Network
Pruning, ICML 2022, arXiv:2206.10451. With weights w, the gradient g of the loss and its Hessian H, the score of a
weight is `|w (H g)|`, a first-order estimate of how much the gradient flow g g changes without it; the score of a
channel is `|sum w (H g)|` over its weights. -S removes channels, -U masks weights. CroP takes one round, CroPit
several. EarlyCroP first trains the whole network until it enters the lazy regime, in which the weights hardly move away
from their start any more and the gradient flow is stable.

Scores are computed in eval mode: with the statistics of the batch, a BatchNorm would undo any gate before it. The
optimizer keeps its moments of the channels that remain; the released code of -S begins with new ones.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from pydantic import Field, StrictBool

from compressor.budget.rounds import halving_remaining, halving_targets
from compressor.budget.target import PruningTarget, pruned_channel_share, pruned_weight_share
from compressor.criteria.gradient import GradientCriterion
from compressor.criteria.gradient_formulas import crop, crop_gated
from compressor.errors import RecipeError
from compressor.field_types import Count, FormerKey, OpenFraction, former_words
from compressor.methods._rounds import HalvingRounds, remove_in_rounds
from compressor.methods._shared import GlobalMask, ScoringImages, Start, final_share, initial_weights
from compressor.methods._training import EarlyTraining
from compressor.methods.base import Method, SettingsGroup
from compressor.steps.base import Step
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels
from compressor.training.early_stopping import EarlyStop
from compressor.training.stopping_rules import (
    channel_patience,
    lazy_regime,
    lazy_regime_squared,
    weight_patience,
)

Score = Annotated[
    Literal["pure", "gated"],
    Field(
        description="score of a channel: pure = |sum of w (H g)| over its weights, as in the paper; gated = with g g "
        "added for each weight, as in the released code"
    ),
]
Batches = Annotated[Count, Field(description="number of batches of training images that gradients are computed on")]


class LazyRegime(SettingsGroup):
    """When the early training ends."""

    rule: Annotated[
        Literal["paper_code", "slides", "fixed_epochs"],
        FormerKey("when", former_words({"released": "paper_code", "squared": "slides", "fixed": "fixed_epochs"})),
    ] = Field(
        default="paper_code",
        description="paper_code = distances from the weights after epoch 1, as in the authors' code but for patience; "
        "slides = squared distances from the initial weights, as on their slides; fixed_epochs = after all `epochs`",
    )
    patience: OpenFraction | None = Field(
        default=None,
        description="the training ends once the distance changes by less than this factor times its first change; "
        "null = derived from the pruning ratio r: 1 - r for weights, max(0.9 - r, 0.1 (1 - r)) for channels",
    )

    def early_stop(self, method: str, derived: float | None) -> EarlyStop | None:
        """Return the rule that ends the training, or None if all epochs are trained.

        Args:
            method: The name of the method, for the error.
            derived: The factor that follows from the pruning target; None if the target names no share.

        Raises:
            RecipeError: Neither the target nor `patience` gives the factor.
        """
        if self.rule == "fixed_epochs":
            return None
        factor = derived if self.patience is None else self.patience
        if factor is None:
            problem = "it is null, and prune.target names no share that it could be derived from"
            hint = "write a number, such as 0.05"
            raise RecipeError("recipe/not-derivable-from-target", f"prune.{method}.patience", problem, hint)
        rule = lazy_regime if self.rule == "paper_code" else lazy_regime_squared
        return EarlyStop("lazy regime", partial(rule, factor=factor))


def gradient_flow(images: ScoringImages, score: Score = "pure") -> GradientCriterion:
    """Return the criterion of all these methods.

    Args:
        images: The training images that gradients are computed on.
        score: `gated` adds g g to the score of each weight, as the released code does for channels.

    Returns:
        The criterion, of second order.
    """
    value = crop if score == "pure" else crop_gated
    return GradientCriterion("crop", value, order=2, batches=images.batches, batch_size=images.batch_size)


class CropS(Method, name="crop-s", trained=False):
    """Remove the channels that matter least to the gradient flow, before any training."""

    start: Start = "given"
    images: ScoringImages = ScoringImages()
    score: Score = "pure"

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        flow = gradient_flow(self.images, self.score)
        return *initial_weights(self.start), SelectChannels(flow, target), RemoveChannels()


class CropitS(Method, name="cropit-s", trained=False):
    """Remove the channels that matter least to the gradient flow in several rounds, before any training."""

    start: Start = "given"
    images: ScoringImages = ScoringImages()
    score: Score = "pure"
    rounds: HalvingRounds = 7

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        flow = gradient_flow(self.images, self.score)
        return *initial_weights(self.start), *remove_in_rounds(flow, halving_targets(target, self.rounds))


class CropU(Method, name="crop-u", trained=False, unstructured=True):
    """Mask the weights that matter least to the gradient flow, before any training."""

    start: Start = "given"
    mask: GlobalMask = GlobalMask()
    images: ScoringImages = ScoringImages()

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        flow = gradient_flow(self.images)
        return *initial_weights(self.start), self.mask.step(flow, target)


class CropitU(Method, name="cropit-u", trained=False, unstructured=True):
    """Mask the weights that matter least to the gradient flow in several rounds, before any training."""

    start: Start = "given"
    mask: GlobalMask = GlobalMask()
    images: ScoringImages = ScoringImages()
    rounds: HalvingRounds = 7

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        flow = gradient_flow(self.images)
        shares = halving_remaining(final_share(target), self.rounds)
        return *initial_weights(self.start), self.mask.step(flow, target, shares)


class EarlyCropS(Method, name="earlycrop-s", trained=False):
    """Train until the lazy regime, then remove the channels that matter least to the gradient flow.

    `batch_size` is that of the early training and of the batches that gradients are computed on.
    """

    start: Start = "given"
    training: EarlyTraining = EarlyTraining()
    stop: LazyRegime = LazyRegime()
    score: Score = "pure"
    batches: Batches = 5
    iterative: StrictBool = Field(default=False, description="remove channels in 7 rounds and score them in each")

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        """Return the steps.

        Raises:
            RecipeError: Neither the target nor `patience` says when the early training ends.
        """
        removed = pruned_channel_share(target)
        stop = self.stop.early_stop(self.name, None if removed is None else channel_patience(removed))
        flow = gradient_flow(ScoringImages(batches=self.batches, batch_size=self.training.batch_size), self.score)
        rounds = remove_in_rounds(flow, halving_targets(target) if self.iterative else (target,))
        return *initial_weights(self.start), self.training.step(stop), *rounds


class EarlyCropU(Method, name="earlycrop-u", trained=False, unstructured=True):
    """Train until the lazy regime, then mask the weights that matter least to the gradient flow in several rounds.

    `batch_size` is that of the early training and of the batches that gradients are computed on.
    """

    start: Start = "given"
    mask: GlobalMask = GlobalMask()
    training: EarlyTraining = EarlyTraining()
    stop: LazyRegime = LazyRegime()
    batches: Batches = 5
    rounds: HalvingRounds = 7

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        """Return the steps.

        Raises:
            RecipeError: Neither the target nor `patience` says when the early training ends.
        """
        removed = pruned_weight_share(target)
        stop = self.stop.early_stop(self.name, None if removed is None else weight_patience(removed))
        flow = gradient_flow(ScoringImages(batches=self.batches, batch_size=self.training.batch_size))
        shares = halving_remaining(final_share(target), self.rounds)
        return *initial_weights(self.start), self.training.step(stop), self.mask.step(flow, target, shares)
