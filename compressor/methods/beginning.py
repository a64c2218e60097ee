"""Settings of methods that prune before or early in training: from which weights, and by how many training images."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, Field

from compressor.methods._regularization import Count
from compressor.steps.base import Step
from compressor.steps.reinitialize import Reinitialize


class Beginning(BaseModel):
    """These methods are meant for networks that were hardly trained, or not at all."""

    trained: ClassVar[bool] = False

    start: Literal["given", "random"] = Field(
        default="given", description="weights it begins with: given = the model's own; random = drawn anew by `seed`"
    )

    def begin(self) -> tuple[Step, ...]:
        return (Reinitialize(),) if self.start == "random" else ()


class ByGradients(Beginning):
    """Scores come from gradients of the first batches of training images, never of test images."""

    needs_data: ClassVar[bool] = True

    batches: Count = Field(default=5, description="of training images that gradients are taken of")
    batch_size: Count = Field(default=128, description="of these batches")
