"""FORCE, foresight connection sensitivity: what weights matter for once others are gone, and masked ones may return.

de Jorge, Sanyal, Behl, Torr, Rogez and Dokania, Progressive Skeletonization: Trimming more fat from a network at
initialization, ICLR 2021, arXiv:2006.09081. With c the mask of the round before, every weight has the score

    |w dL/dw at w c|

with its original value w and the gradient where the masked ones are zero, which is not zero itself. As released: 60
rounds, one batch each (10 for CIFAR-100), statistics of the batch.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from compressor.core import Selection, Step
from compressor.methods.base import Method
from compressor.methods.regularising import Count
from compressor.methods.unstructured import InRounds, Sensitive, Unstructured


class Force(InRounds, Sensitive, Unstructured, Method):
    name: ClassVar[str] = "force"

    batches: Count = 1
    norms: Literal["running", "batch"] = "batch"

    def steps(self, selection: Selection) -> tuple[Step, ...]:
        criterion = self.sensitivity(self.name)
        return *self.begin(), self.mask(criterion, selection, self.shares(selection), nested=False)
