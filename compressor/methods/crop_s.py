"""CroP-S: channels whose removal changes the gradient flow least go at once, before any training or early in it.

Rachwan, Zügner, Charpentier, Geisler, Ayle and Günnemann, Winning the Lottery Ahead of Time: Efficient Early Network
Pruning, ICML 2022, arXiv:2206.10451: with g the gradient of the loss and H its Hessian, a channel with the weights W
has the score `|sum_W w (H g)|`, the change of g g to first order. All layers are compared with each other (prune.scope:
global). Their code scores by test images; these are training images.
"""

from __future__ import annotations

from typing import ClassVar

from compressor.core import Choose, Remove, Selection, Step
from compressor.methods.base import Method
from compressor.methods.beginning import ByGradients
from compressor.methods.crop import Flowing


class CropS(Flowing, ByGradients, Method):
    name: ClassVar[str] = "crop-s"

    def steps(self, selection: Selection) -> tuple[Step, ...]:
        return *self.begin(), Choose(self.flow(self.batches, self.batch_size), selection), Remove()
