"""CroPit-U: CroP-U in rounds, scored anew on what each round leaves, with no training between them.

Rachwan et al., Winning the Lottery Ahead of Time, ICML 2022, arXiv:2206.10451. Half of the weights go first, then each
time half of what is still to go; 7 rounds as released. What is masked stays masked, and its gradient counts as zero.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from compressor.core import Selection, Step
from compressor.methods.base import Method
from compressor.methods.beginning import ByGradients
from compressor.methods.crop_u import flow_kept
from compressor.methods.regularising import Count
from compressor.methods.unstructured import Unstructured, asked, halved


class CropitU(ByGradients, Unstructured, Method):
    name: ClassVar[str] = "cropit-u"

    halvings: Count = Field(default=5, description="of what is still to go; the rounds are two more")

    def steps(self, selection: Selection) -> tuple[Step, ...]:
        criterion = flow_kept(self.batches, self.batch_size)
        return *self.begin(), self.mask(criterion, selection, halved(asked(selection), self.halvings))
