"""EarlyCroP-S: train until the network enters the lazy regime, take out the channels whose removal changes the gradient
flow least, and train on: most of the training is that of the slim network.

Rachwan, Zügner, Charpentier, Geisler, Ayle and Günnemann, Winning the Lottery Ahead of Time: Efficient Early Network
Pruning, ICML 2022, arXiv:2206.10451. Once the weights' way from where they began hardly grows any more, the gradient
flow stays what it is, and so does what CroP measures by it. All layers are compared with each other (prune.scope:
global). As in the released code: distances are counted from the weights after epoch 1, all channels go at once, Adam at
2e-3 with decay 5e-5 and gradients of norm 10 at most. Otherwise than there: scores come from training images, channels
that belong together are scored and go together, a threshold that no weights ever met is mended (see `patience`), and
what Adam remembers of the channels that stay goes on.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from compressor.core import Choose, Remove, Selection, Step
from compressor.methods.base import Method
from compressor.methods.beginning import Beginning
from compressor.methods.crop import Flowing
from compressor.methods.pretraining import LazyRegime
from compressor.methods.regularising import Count, Truth
from compressor.methods.rounds import in_rounds


class EarlyCropS(Flowing, LazyRegime, Beginning, Method):
    """`batch_size` is that of the early training, and of the batches that scores come from."""

    name: ClassVar[str] = "earlycrop-s"
    needs_data: ClassVar[bool] = True

    batches: Count = Field(default=5, description="of training images that scores come from")
    iterative: Truth = Field(default=False, description="channels go in 7 rounds, scored anew each time")

    def steps(self, selection: Selection) -> tuple[Step, ...]:
        """Raises RecipeError where neither the target nor `patience` says how settled the weights must be."""
        flow = self.flow(self.batches, self.batch_size)
        cut = in_rounds(flow, selection) if self.iterative else (Choose(flow, selection), Remove())
        return *self.begin(), self.until_channels_can_go(selection), *cut
