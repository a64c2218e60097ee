"""Scratch: the slim architecture that L1 pruning would leave, trained from random weights.

Liu, Sun, Zhou, Huang and Darrell, Rethinking the Value of Network Pruning, ICLR 2019, arXiv:1810.05270. With K2 the
recipe's retraining epochs and K1 those that the dense model had before, at F2 and F1 multiply-adds, Scratch-E trains
for `K1 + K2` epochs and Scratch-B, which costs as much as both trainings together, for `K1 F1 / F2 + K2`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from compressor.core import Choose, Reinitialise, Remove, Selection, Step
from compressor.methods.base import Method
from compressor.methods.criteria import l1
from compressor.methods.regularising import Whole


class Scratch(Method):
    name: ClassVar[str] = "scratch"
    needs_data: ClassVar[bool] = True

    equal: Literal["epochs", "flops"] = Field(default="epochs", description="what is the same as with pruning")
    dense_epochs: Whole = Field(default=0, description="epochs that the dense model was trained for, K1")

    def steps(self, selection: Selection) -> tuple[Step, ...]:
        return Choose(l1, selection), Remove(), Reinitialise(self.dense_epochs, self.equal == "flops")
