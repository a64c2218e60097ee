"""Lottery tickets: train, mask the smallest weights, go back to an early epoch and train what is left; round by round.

Frankle and Carbin, The Lottery Ticket Hypothesis, ICLR 2019, arXiv:1803.03635 (back to the initial weights); Frankle,
Dziugaite, Roy and Carbin, Linear Mode Connectivity and the Lottery Ticket Hypothesis, ICML 2020, arXiv:1912.05671 (back
to the weights of an early epoch); Renda, Frankle and Carbin, Comparing Rewinding and Fine-tuning in Neural Network
Pruning, ICLR 2020, arXiv:2003.02389 (back to the learning rate of that epoch, with the weights as they are).

Every training is the recipe's retraining, the dense network's as well: all of its course at first, and from the epoch
that is gone back to in every round and in the end. Over E epochs, back to k and in n rounds, k + (n + 1) (E - k) epochs
are trained where weights are rewound, and E + n (E - k), which is as many, where rates are.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from compressor.budget.target import PruningTarget
from compressor.criteria.magnitude import magnitude
from compressor.methods._regularization import Count
from compressor.methods._unstructured import Unstructured, exponential_shares
from compressor.methods.base import Method
from compressor.steps.base import Step
from compressor.steps.rewind import RewindWeights, SaveWeights
from compressor.steps.train import FinetuneSegment


class Tickets(Unstructured):
    """All weights are compared with each other, by size."""

    needs_data: ClassVar[bool] = True

    rounds: Count = Field(default=5, description="each masks the same share of the weights that are left")

    def found(
        self, selection: PruningTarget, before: tuple[Step, ...], *, first: int, rewind: bool
    ) -> tuple[Step, ...]:
        """The rounds of masks, after the dense network's training; each but the last with a training that begins at
        epoch `first`. What it is asked for in the end follows."""
        assert selection.weights is not None, "recipes ask for prune.target.weights"
        shares = exponential_shares(selection.weights, self.rounds)
        steps = (*self.begin(), *before)
        for number, share in enumerate(shares, start=1):
            back = (RewindWeights(),) if rewind else ()
            last = number == len(shares)
            train = FinetuneSegment(first) if last else FinetuneSegment(first, stage=f"round {number}")
            steps = (*steps, self.mask(magnitude, selection, (share,)), *back, train)
        return steps


class IMP(Tickets, Method):
    """Iterative magnitude pruning with weight rewinding."""

    name: ClassVar[str] = "imp"

    rewind_to: Count = Field(default=2, description="epoch of the retraining's course whose weights are gone back to")

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        early = FinetuneSegment(0, self.rewind_to, stage="early training")
        dense = FinetuneSegment(self.rewind_to, stage="dense training")
        return self.found(selection, (early, SaveWeights(), dense), first=self.rewind_to, rewind=True)


class LTH(Tickets, Method):
    """Iterative magnitude pruning back to the initial weights."""

    name: ClassVar[str] = "lth"

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        return self.found(selection, (SaveWeights(), FinetuneSegment(0, stage="dense training")), first=0, rewind=True)


class LTR(Tickets, Method):
    """Iterative magnitude pruning with learning-rate rewinding: weights go on from where they are."""

    name: ClassVar[str] = "ltr"

    rewind_to: Count = Field(default=2, description="epoch of the retraining's course whose rates are gone back to")

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        return self.found(selection, (FinetuneSegment(0, stage="dense training"),), first=self.rewind_to, rewind=False)
