"""GraSP: mask the weights whose removal lowers the gradient flow least, or raises it most.

Wang, Zhang and Grosse, Picking Winning Tickets Before Training by Preserving Gradient Flow, ICLR 2020,
arXiv:2002.07376. With weights w, gradient g and Hessian H, `w (H g)` is what removing w takes from g g to first order.
The weights with the lowest values are masked, negative ones first. Logits are divided by a temperature of 200 before
the loss. The sign is that of the official code; some other implementations keep the opposite weights.

Differences from the released code: images are sampled as in training, not the same number of each class; and the
classifier is scored with the weights that it is trained from, not with a second random initialization.
"""

from __future__ import annotations

from pydantic import Field

from compressor.budget.target import PruningTarget
from compressor.criteria.gradient import GradientCriterion
from compressor.criteria.gradient_formulas import crop
from compressor.field_types import Positive
from compressor.methods._shared import BatchNormMode, GlobalMask, ScoringImages, Start, initial_weights
from compressor.methods.base import Method
from compressor.steps.base import Step


class Grasp(Method, name="grasp", trained=False, unstructured=True):
    """Two batches of 50: 10 images of each class of CIFAR-10 on average."""

    start: Start = "given"
    mask: GlobalMask = GlobalMask()
    images: ScoringImages = ScoringImages(batches=2, batch_size=50)
    temperature: Positive = Field(default=200.0, description="what logits are divided by before the loss")
    batchnorm: BatchNormMode = "train"

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        criterion = GradientCriterion(
            self.name,
            crop,
            order=2,
            signed=True,
            batches=self.images.batches,
            batch_size=self.images.batch_size,
            training=self.batchnorm == "train",
            temperature=self.temperature,
        )
        return *initial_weights(self.start), self.mask.step(criterion, target)
