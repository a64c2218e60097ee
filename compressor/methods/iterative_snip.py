"""Iterative SNIP: connection sensitivity found anew in every round, on what the rounds before left.

de Jorge, Sanyal, Behl, Torr, Rogez and Dokania, Progressive Skeletonization: Trimming more fat from a network at
initialization, ICLR 2021, arXiv:2006.09081: `|w dL/dw|` at the masked weights; what is masked stays masked. One round
is SNIP. As released: 60 rounds, one batch each (10 for CIFAR-100), statistics of the batch.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from compressor.core import Selection, Step
from compressor.methods.base import Method
from compressor.methods.regularising import Count
from compressor.methods.unstructured import InRounds, Sensitive, Unstructured


class IterativeSnip(InRounds, Sensitive, Unstructured, Method):
    name: ClassVar[str] = "iterative-snip"

    batches: Count = 1
    norms: Literal["running", "batch"] = "batch"

    def steps(self, selection: Selection) -> tuple[Step, ...]:
        return *self.begin(), self.mask(self.sensitivity(self.name), selection, self.shares(selection))
