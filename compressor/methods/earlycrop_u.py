"""EarlyCroP-U: train until the weights settle into the lazy regime, then mask as CroPit-U does, and train on.

Rachwan, Zügner, Charpentier, Geisler, Ayle and Günnemann, Winning the Lottery Ahead of Time: Efficient Early Network
Pruning, ICML 2022, arXiv:2206.10451: what is scored by gradients holds for the training that follows only once the
gradient flow hardly changes. 7 rounds as released, which have no training between them.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from compressor.core import Selection, Step
from compressor.methods.base import Method
from compressor.methods.crop_u import flow_kept
from compressor.methods.pretraining import LazyRegime
from compressor.methods.regularising import Count
from compressor.methods.unstructured import Unstructured, asked, halved


class EarlyCropU(LazyRegime, Unstructured, Method):
    """`batch_size` is that of the early training, and of the batches that scores come from."""

    name: ClassVar[str] = "earlycrop-u"
    needs_data: ClassVar[bool] = True

    batches: Count = Field(default=5, description="of training images that scores come from")
    halvings: Count = Field(default=5, description="of what is still to go; the rounds are two more")

    def steps(self, selection: Selection) -> tuple[Step, ...]:
        """Raises RecipeError where neither the target nor `patience` says how settled the weights must be."""
        criterion = flow_kept(self.batches, self.batch_size)
        masks = self.mask(criterion, selection, halved(asked(selection), self.halvings))
        return *self.begin(), self.until_weights_can_go(selection), masks
