"""Gate Decorators: gates behind normalisations learn and are scored by themselves (tick), the lowest go, all weights
learn again (tock); many times over.

You, Yan, Ye, Ma and Wang, Gate Decorator: Global Filter Pruning Method for Accelerating Deep Convolutional Neural
Networks, NeurIPS 2019, arXiv:1909.08174. A gate g takes the place of a normalisation's scale s, its shift t becoming
t / g, so that `g dL/dg = s dL/ds + t dL/dt`: the scales and shifts there are serve as gates, and nothing is added to
the network. A channel's score is the sum of |g dL/dg| over the batches of an epoch and over all gates that it passes.

    tock                          all weights, `loss + strength * sum |g|`, learning rates 0.1 -> 1 -> 0.1 of `lr`
    tick, `every` times           scales and shifts only, at 0.1 of `lr`; then the lowest channels of all layers go
    tock, ticks, tock ...

Other than released: channels leave the network instead of being masked, which is the same but cheaper; a tick takes
the same share of the target's quantity each time so that there are `ticks` of them (released: 0.5 % of the filters
that are left, until a target is met); scores are taken after a tick's training, not along it; shifts learn beside
scales; neither t / g is clipped to 10, nor is there a term for the multiply-adds of each filter.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated, ClassVar

from pydantic import AllowInfNan, Field, Strict

from compressor.budget.target import PruningTarget
from compressor.criteria.batchnorm_gate import BatchNormGateCriterion
from compressor.methods._iterative import SHARES
from compressor.methods._regularization import Count, NotNegative, Positive, Regularising
from compressor.methods.base import Method
from compressor.steps.base import Step
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels
from compressor.steps.train import Train
from compressor.training.penalty import Penalty, PenaltyTerm
from compressor.training.penalty_terms import constant_strength, l1_norm
from compressor.training.schedules import triangle
from compressor.training.settings import OptimizerSettings, Schedule

LOW = 0.1  # of the learning rate: in ticks, and where tocks begin and end


class GateDecorators(Regularising, Method):
    """Tocks of 10 epochs, one before every 10 ticks, as released for CIFAR-10."""

    name: ClassVar[str] = "gatedecorators"
    needs_data: ClassVar[bool] = True

    lr: Positive = Field(default=0.01, description="largest of a tock; a tenth of it in ticks")
    ticks: Count = Field(default=20, description="after each the same share of what is left goes, the target at last")
    every: Count = Field(default=10, description="ticks from one tock to the next")
    tick_epochs: Count = Field(default=1, description="of scales and shifts only, in each tick")
    tock_epochs: Count = Field(default=10, description="of all weights, in each tock")
    strength: NotNegative = Field(default=1e-3, description="factor on the sum of |scale| in tocks")
    batches: Count | None = Field(default=None, description="of training images to score by; null = a whole epoch")
    floor: Annotated[float, Strict(), AllowInfNan(False), Field(ge=0, lt=1)] = Field(
        default=0.1, description="share of its channels that every group keeps, whatever they are worth"
    )

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        criterion = BatchNormGateCriterion(self.batches, self.batch_size)
        steps: tuple[Step, ...] = ()
        rounds = shrinking(selection, self.ticks)
        for number, each in enumerate(rounds):
            if number % self.every == 0:
                steps += (self._tock(),)
            asked = replace(each, min_keep_ratio=self.floor)
            steps += (self._tick(), SelectChannels(criterion, asked), RemoveChannels(last=each is rounds[-1]))
        return steps

    def _tick(self) -> Train:
        return replace(self._epochs(self.tick_epochs, lambda done: LOW), stage="tick", trainable="scales")

    def _tock(self) -> Train:
        slimming = Penalty(
            "L1 on scales",
            (PenaltyTerm(l1_norm, partial(constant_strength, value=self.strength), applies_to="scales"),),
        )
        return replace(self._epochs(self.tock_epochs, triangle(self.tock_epochs, LOW)), stage="tock", penalty=slimming)

    def _epochs(self, epochs: int, schedule: Schedule) -> Train:
        optimizer = OptimizerSettings("sgd", self.lr, self.momentum, self.weight_decay)
        return Train(self.batch_size, optimizer, schedule, epochs, evaluate=False)


def shrinking(last: PruningTarget, rounds: int) -> tuple[PruningTarget, ...]:
    """What each round is asked for, so that all take the same share of what is left: `s^(t/T)` remains after round t of
    T where s is to remain; milliseconds count in the last round only."""
    shares = {name: share for name in SHARES if (share := getattr(last, name)) is not None}
    if last.ratio is not None:
        shares["ratio"] = 1 - last.ratio

    def after(number: int) -> PruningTarget:
        left = {name: share ** (number / rounds) for name, share in shares.items()}
        asked = {name: 1 - each if name == "ratio" else each for name, each in left.items()}
        return replace(last, latency_ms=None, **asked)

    return (*(after(number) for number in range(1, rounds)), last) if shares else (last,)
