"""CroPit-S: CroP-S in rounds, scored anew on what each round leaves, with no training between them.

Rachwan et al., Winning the Lottery Ahead of Time, ICML 2022, arXiv:2206.10451. Half of the channels go first, then each
time half of what is still to go; 7 rounds as released.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from compressor.core import Selection, Step
from compressor.methods.base import Method
from compressor.methods.beginning import ByGradients
from compressor.methods.crop import Flowing
from compressor.methods.regularising import Count
from compressor.methods.rounds import in_rounds


class CropitS(Flowing, ByGradients, Method):
    name: ClassVar[str] = "cropit-s"

    halvings: Count = Field(default=5, description="of what is still to go; the rounds are two more")

    def steps(self, selection: Selection) -> tuple[Step, ...]:
        return *self.begin(), *in_rounds(self.flow(self.batches, self.batch_size), selection, self.halvings)
