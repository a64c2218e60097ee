"""L1 pruning with orthogonality brought in from outside: the baselines trainability preserving pruning is held against.

Wang and Fu, arXiv:2207.12534, table 1. Before pruning or while retraining, `weight * penalty` is added to the loss of
every layer: KernOrth, Xie et al., arXiv:1703.01827, or OrthConv, Wang et al., arXiv:1911.12207, which spares the first
layer. OrthP makes the weights orthogonal by hand after removal: Wang et al., Dynamical Isometry: The Missing Ingredient
for Neural Network Pruning, arXiv:2105.05916.
"""

from __future__ import annotations

import math
from functools import partial
from typing import ClassVar

from pydantic import BaseModel, Field

from compressor.core import Choose, Orthogonalise, Penalty, Remove, Selection, Step, Term
from compressor.methods.base import Method
from compressor.methods.criteria import l1
from compressor.methods.penalties import convolution_orthogonality, kernel_orthogonality, steady
from compressor.methods.regularising import Count, NotNegative, Positive, Regularising


class Weighted(BaseModel):
    weight: NotNegative = Field(default=0.1, description="factor on the penalty")

    def kern_orth(self) -> Penalty:
        return Penalty("KernOrth", (Term(kernel_orthogonality, partial(steady, value=self.weight), on="layers"),))

    def orth_conv(self) -> Penalty:
        strength = partial(steady, value=self.weight)
        return Penalty("OrthConv", (Term(convolution_orthogonality, strength, on="layers", spare=1),))


class L1OrthP(Method):
    """Exact isometry only where activations are linear."""

    name: ClassVar[str] = "l1-orthp"

    gain: Positive = Field(default=math.sqrt(2), description="factor on orthogonal weights; the root of 2 suits ReLU")

    def steps(self, selection: Selection) -> tuple[Step, ...]:
        return Choose(l1, selection), Remove(), Orthogonalise(self.gain)


class L1KernOrth(Weighted, Method):
    """The penalty works throughout retraining."""

    name: ClassVar[str] = "l1-kernorth"

    def steps(self, selection: Selection) -> tuple[Step, ...]:
        return Choose(l1, selection), Remove()

    def retraining(self) -> Penalty:
        return self.kern_orth()


class L1OrthConv(Weighted, Method):
    """The penalty works throughout retraining."""

    name: ClassVar[str] = "l1-orthconv"

    def steps(self, selection: Selection) -> tuple[Step, ...]:
        return Choose(l1, selection), Remove()

    def retraining(self) -> Penalty:
        return self.orth_conv()


class KernOrthL1(Weighted, Regularising, Method):
    """The penalty works in a training before the choice."""

    name: ClassVar[str] = "kernorth-l1"
    needs_data: ClassVar[bool] = True

    epochs: Count = Field(default=30, description="length of the training with the penalty")

    def steps(self, selection: Selection) -> tuple[Step, ...]:
        return self.train(self.kern_orth(), epochs=self.epochs), Choose(l1, selection), Remove()


class OrthConvL1(Weighted, Regularising, Method):
    """The penalty works in a training before the choice."""

    name: ClassVar[str] = "orthconv-l1"
    needs_data: ClassVar[bool] = True

    epochs: Count = Field(default=30, description="length of the training with the penalty")

    def steps(self, selection: Selection) -> tuple[Step, ...]:
        return self.train(self.orth_conv(), epochs=self.epochs), Choose(l1, selection), Remove()
