"""Lottery tickets: train, mask the smallest weights, rewind to an early epoch and train what is left; in rounds.

Frankle and Carbin, The Lottery Ticket Hypothesis, ICLR 2019, arXiv:1803.03635 (rewinds to the initial weights);
Frankle, Dziugaite, Roy and Carbin, Linear Mode Connectivity and the Lottery Ticket Hypothesis, ICML 2020,
arXiv:1912.05671 (rewinds to the weights of an early epoch); Renda, Frankle and Carbin, Comparing Rewinding and
Fine-tuning in Neural Network Pruning, ICLR 2020, arXiv:2003.02389 (rewinds the learning rate to that epoch and leaves
the weights as they are).

Every training is the recipe's retraining: the dense network gets all of it, and each round gets the part from the epoch
that is rewound to. With E epochs, a rewind to epoch k and n rounds, weight rewinding trains k + (n + 1) (E - k) epochs,
and learning-rate rewinding E + n (E - k), which is the same number.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from compressor.budget.rounds import exponential_remaining
from compressor.budget.target import PruningTarget
from compressor.criteria.magnitude import magnitude
from compressor.field_types import Count
from compressor.methods._shared import GlobalMask, Start, final_share, initial_weights
from compressor.methods.base import Method
from compressor.steps.base import Step
from compressor.steps.finetune_segment import FinetuneSegment
from compressor.steps.rewind import RewindWeights, SaveWeights

Rounds = Annotated[Count, Field(description="number of rounds; each masks the same share of the weights that are left")]


def mask_and_train(
    target: PruningTarget, mask: GlobalMask, rounds: int, *, first_epoch: int, rewind: bool
) -> tuple[Step, ...]:
    """Return the rounds that follow the training of the dense network. The last training is the retraining itself.

    Args:
        target: The pruning target, which the last round meets.
        mask: How the weights are masked, by magnitude over all layers.
        rounds: The number of rounds.
        first_epoch: The epoch of the retraining at which each round begins.
        rewind: Whether the weights are rewound before each training.

    Returns:
        For each round the mask, the rewinding if there is one, and the training.
    """
    steps: tuple[Step, ...] = ()
    for number, share in enumerate(exponential_remaining(final_share(target), rounds), start=1):
        training = FinetuneSegment(first_epoch)
        if number < rounds:
            training = FinetuneSegment(first_epoch, stage=f"round {number}")
        steps += (mask.step(magnitude, target, (share,)), *((RewindWeights(),) if rewind else ()), training)
    return steps


class IMP(Method, name="imp", trained=False, unstructured=True):
    """Iterative magnitude pruning with weight rewinding to an early epoch."""

    start: Start = "given"
    mask: GlobalMask = GlobalMask()
    rounds: Rounds = 5
    rewind_to: Count = Field(default=2, description="epoch of the retraining whose weights are restored")

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        return (
            *initial_weights(self.start),
            FinetuneSegment(0, self.rewind_to, stage="early training"),
            SaveWeights(),
            FinetuneSegment(self.rewind_to, stage="dense training"),
            *mask_and_train(target, self.mask, self.rounds, first_epoch=self.rewind_to, rewind=True),
        )


class LTH(Method, name="lth", trained=False, unstructured=True):
    """Iterative magnitude pruning with rewinding to the initial weights."""

    start: Start = "given"
    mask: GlobalMask = GlobalMask()
    rounds: Rounds = 5

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        return (
            *initial_weights(self.start),
            SaveWeights(),
            FinetuneSegment(0, stage="dense training"),
            *mask_and_train(target, self.mask, self.rounds, first_epoch=0, rewind=True),
        )


class LTR(IMP, name="ltr", trained=False, unstructured=True):
    """Lottery ticket rewinding: `imp` by the name that it has in the tables of EarlyCroP."""


class LRR(Method, name="lrr", trained=False, unstructured=True):
    """Iterative magnitude pruning with learning-rate rewinding: the weights are not rewound."""

    start: Start = "given"
    mask: GlobalMask = GlobalMask()
    rounds: Rounds = 5
    rewind_to: Count = Field(default=2, description="epoch of the retraining whose learning rate is restored")

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        return (
            *initial_weights(self.start),
            FinetuneSegment(0, stage="dense training"),
            *mask_and_train(target, self.mask, self.rounds, first_epoch=self.rewind_to, rewind=False),
        )
