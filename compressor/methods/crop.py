"""What the methods that preserve gradient flow have in common: how a weight's part in it is scored."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from compressor.core import Saliency
from compressor.methods.saliencies import gated_flow, gradient_flow


class Flowing(BaseModel):
    """With the network in eval mode: statistics of the batch would undo any gate before a BatchNorm."""

    score: Literal["pure", "gated"] = Field(
        default="pure",
        description="of a channel: pure = |sum of w (H g)| over its weights, as in the paper; gated = with g g added "
        "to each, as the released code computes it",
    )

    def flow(self, batches: int, batch_size: int) -> Saliency:
        value = gradient_flow if self.score == "pure" else gated_flow
        return Saliency("crop", value, order=2, batches=batches, batch_size=batch_size)
