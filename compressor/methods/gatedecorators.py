"""Gate Decorators: remove the channels whose gates behind normalizations matter least, in many small rounds.

You, Yan, Ye, Ma and Wang, Gate Decorator: Global Filter Pruning Method for Accelerating Deep Convolutional Neural
Networks, NeurIPS 2019, arXiv:1909.08174. A gate g replaces the scale s of a normalization and turns its shift t into
t / g, so that `g dL/dg = s dL/ds + t dL/dt`. The existing scales and shifts therefore serve as gates, and nothing is
added to the network. The score of a channel is the sum of |g dL/dg| over the batches of an epoch and over all its
gates.

    tock    all weights, `loss + strength * sum |g|`, learning rate 0.1 -> 1 -> 0.1 of `lr`
    tick    scales and shifts only, at 0.1 of `lr`; then the channels with the lowest scores of all layers are removed

A tock comes before every `every` ticks. Differences from the released code: channels are removed instead of masked,
which gives the same network at a lower cost; there are `ticks` ticks, each of which removes the same share of what is
left (released: 0.5 % of the remaining filters until a target is met); scores are computed after the training of a tick,
not along it; shifts are trained with the scales; t / g is not clipped to 10, and the multiply-adds of a filter do not
enter its score.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from compressor.budget.rounds import exponential_targets
from compressor.budget.target import PruningTarget
from compressor.criteria.batchnorm_gate import BatchNormGateCriterion
from compressor.field_types import Count, FractionBelowOne, NonNegative
from compressor.methods._training import PenaltyTraining, slimming_penalty
from compressor.methods.base import Method
from compressor.steps.base import Step
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels
from compressor.steps.train import Train
from compressor.training.penalty import Penalty
from compressor.training.schedules import triangle
from compressor.training.train_settings import Schedule

LOW = 0.1
"""Factor on the learning rate in ticks, and where tocks begin and end."""


class GateDecorators(Method, name="gatedecorators"):
    """Tocks of 10 epochs, one before every 10 ticks, as released for CIFAR-10. `lr` is the highest rate of a tock."""

    training: PenaltyTraining = PenaltyTraining(lr=0.01)
    ticks: Count = Field(
        default=20,
        description="number of ticks; each removes the same share of what is left, the last meets the target",
    )
    every: Count = Field(default=10, description="number of ticks from one tock to the next")
    tick_epochs: Count = Field(default=1, description="epochs of a tick, which trains scales and shifts only")
    tock_epochs: Count = Field(default=10, description="epochs of a tock, which trains all weights")
    strength: NonNegative = Field(default=1e-3, description="factor on the sum of |scale| in tocks")
    batches: Count | None = Field(
        default=None, description="number of batches of training images to score with; null = a whole epoch"
    )
    floor: FractionBelowOne = Field(
        default=0.1, description="share of its channels that every group keeps, whatever their scores"
    )

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        criterion = BatchNormGateCriterion(self.batches, self.training.batch_size)
        tick = replace(self._train(self.tick_epochs, lambda done: LOW, "tick"), trainable="scales")
        tock = self._train(self.tock_epochs, triangle(self.tock_epochs, LOW), "tock", slimming_penalty(self.strength))
        steps: list[Step] = []
        epoch = 0  # of all trainings together, which order and augmentation of the images follow
        targets = exponential_targets(replace(target, min_keep_ratio=self.floor), self.ticks)
        for number, tick_target in enumerate(targets):
            for training in (tock, tick) if number % self.every == 0 else (tick,):
                steps.append(replace(training, start_epoch=epoch))
                epoch += training.epochs
            last = number == len(targets) - 1
            steps += [SelectChannels(criterion, tick_target), RemoveChannels(last=last)]
        return tuple(steps)

    def _train(self, epochs: int, schedule: Schedule, stage: str, penalty: Penalty | None = None) -> Train:
        """A training without a test of its own."""
        size, sgd = self.training.batch_size, self.training.sgd
        return Train(size, sgd, schedule, epochs, evaluate=False, stage=stage, penalty=penalty)
