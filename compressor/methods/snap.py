"""SNAP: channels whose removal changes the loss least go before any training; at once, or in rounds (SNAP-it).

Verdenius, Stol and Forré, Pruning via Iterative Ranking of Sensitivity Statistics, arXiv:2006.00896: SNIP's score for
whole channels, `|sum_W w dL/dw|`, the sensitivity of the loss to a gate behind the layer. All layers are compared with
each other (prune.scope: global). Their code takes the loss of answers without a softmax: `loss: logit`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, Field

from compressor.core import Choose, Remove, Saliency, Selection, Step
from compressor.methods.base import Method
from compressor.methods.beginning import ByGradients
from compressor.methods.regularising import Count
from compressor.methods.rounds import in_rounds
from compressor.methods.saliencies import connection


class Gated(ByGradients, BaseModel):
    loss: Literal["task", "logit"] = Field(
        default="task", description="task = the data's own; logit = minus the mean answer for the right class"
    )

    def sensitivity(self) -> Saliency:
        return Saliency("snap", connection, batches=self.batches, batch_size=self.batch_size, loss=self.loss)


class Snap(Gated, Method):
    name: ClassVar[str] = "snap"

    def steps(self, selection: Selection) -> tuple[Step, ...]:
        return *self.begin(), Choose(self.sensitivity(), selection), Remove()


class SnapIt(Gated, Method):
    """Half of the channels go first, then each time half of what is still to go."""

    name: ClassVar[str] = "snap-it"

    halvings: Count = Field(default=5, description="of what is still to go; the rounds are two more")

    def steps(self, selection: Selection) -> tuple[Step, ...]:
        return *self.begin(), *in_rounds(self.sensitivity(), selection, self.halvings)
