"""SNIP, Iterative SNIP, FORCE and SNAP: prune by connection sensitivity `|w dL/dw|`, before any training.

Lee, Ajanthan and Torr, SNIP: Single-Shot Network Pruning Based on Connection Sensitivity, ICLR 2019, arXiv:1810.02340
(weights, one round). de Jorge, Sanyal, Behl, Torr, Rogez and Dokania, Progressive Skeletonization: Trimming More Fat
from a Network at Initialization, ICLR 2021, arXiv:2006.09081 (several rounds, 60 of one batch as released; Iterative
SNIP keeps what is masked masked, FORCE does not). Verdenius, Stol and Forré, Pruning via Iterative Ranking of
Sensitivity Statistics, arXiv:2006.00896 (SNAP: channels, in one round or, as SNAP-it, in several).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from compressor.budget.rounds import halving_targets
from compressor.budget.target import PruningTarget
from compressor.criteria.gradient import GradientCriterion
from compressor.criteria.gradient_formulas import snip
from compressor.methods._rounds import HalvingRounds, PruningRounds, remove_in_rounds
from compressor.methods._shared import (
    BatchNormMode,
    GlobalMask,
    ScoringImages,
    Start,
    final_share,
    initial_weights,
)
from compressor.methods.base import Method
from compressor.steps.base import Step
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels

ScoringLoss = Annotated[
    Literal["task", "logit"],
    Field(
        description="loss of the gradients: task = the loss of the training; logit = minus the mean logit of the right "
        "class, as in the released code"
    ),
]


def connection_sensitivity(
    name: str, images: ScoringImages, loss: ScoringLoss, batchnorm: BatchNormMode = "eval"
) -> GradientCriterion:
    """Return the criterion of all these methods.

    Args:
        name: What the criterion is called in the log.
        images: The training images that gradients are computed on.
        loss: The loss whose gradients are taken.
        batchnorm: Whether BatchNorm uses its running estimates or the statistics of the batch.

    Returns:
        The criterion, of first order.
    """
    training = batchnorm == "train"
    return GradientCriterion(
        name, snip, batches=images.batches, batch_size=images.batch_size, training=training, loss=loss
    )


class Snip(Method, name="snip", trained=False, unstructured=True):
    """Mask the weights with the lowest sensitivity in one round."""

    start: Start = "given"
    mask: GlobalMask = GlobalMask()
    images: ScoringImages = ScoringImages()
    loss: ScoringLoss = "task"
    batchnorm: BatchNormMode = "eval"

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        criterion = connection_sensitivity(self.name, self.images, self.loss, self.batchnorm)
        return *initial_weights(self.start), self.mask.step(criterion, target)


class IterativeSnip(Method, name="iterative-snip", trained=False, unstructured=True):
    """Mask the weights with the lowest sensitivity in several rounds. What is masked stays masked."""

    start: Start = "given"
    mask: GlobalMask = GlobalMask()
    images: ScoringImages = ScoringImages(batches=1)
    loss: ScoringLoss = "task"
    batchnorm: BatchNormMode = "train"
    progress: PruningRounds = PruningRounds()

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        criterion = connection_sensitivity(self.name, self.images, self.loss, self.batchnorm)
        shares = self.progress.remaining(final_share(target))
        return *initial_weights(self.start), self.mask.step(criterion, target, shares)


class Force(Method, name="force", trained=False, unstructured=True):
    """Mask the weights with the lowest sensitivity in several rounds. A later round may restore a masked weight."""

    start: Start = "given"
    mask: GlobalMask = GlobalMask()
    images: ScoringImages = ScoringImages(batches=1)
    loss: ScoringLoss = "task"
    batchnorm: BatchNormMode = "train"
    progress: PruningRounds = PruningRounds()

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        criterion = connection_sensitivity(self.name, self.images, self.loss, self.batchnorm)
        shares = self.progress.remaining(final_share(target))
        return *initial_weights(self.start), self.mask.step(criterion, target, shares, nested=False)


class Snap(Method, name="snap", trained=False):
    """Remove the channels with the lowest sensitivity in one round."""

    start: Start = "given"
    images: ScoringImages = ScoringImages()
    loss: ScoringLoss = "task"

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        criterion = connection_sensitivity("snap", self.images, self.loss)
        return *initial_weights(self.start), SelectChannels(criterion, target), RemoveChannels()


class SnapIt(Method, name="snap-it", trained=False):
    """Remove the channels with the lowest sensitivity in several rounds."""

    start: Start = "given"
    images: ScoringImages = ScoringImages()
    loss: ScoringLoss = "task"
    rounds: HalvingRounds = 7

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        criterion = connection_sensitivity("snap", self.images, self.loss)
        return *initial_weights(self.start), *remove_in_rounds(criterion, halving_targets(target, self.rounds))
