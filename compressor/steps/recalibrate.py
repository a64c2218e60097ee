"""Estimate BatchNorm statistics again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.steps.base import Step

if TYPE_CHECKING:
    from compressor.steps.context import Context
    from compressor.steps.state import PruningState

BATCH_SIZE = 256


@dataclass(frozen=True, slots=True)
class Recalibrate(Step):
    """Estimate the BatchNorm statistics of the slim model from training images."""

    needs_data: ClassVar[bool] = True
    evaluate_as: ClassVar[str] = "after recalibration"

    images: int = 4096

    def __str__(self) -> str:
        return f"Recalibrate({self.images} images)"

    def run(self, state: PruningState, context: Context) -> PruningState:
        """Estimate the statistics.

        Args:
            state: What the steps before it left.
            context: Its training images are used.

        Returns:
            The state with new statistics.
        """
        from compressor.execution.copies import copy_module
        from compressor.training.batchnorm_statistics import recalibrate_batchnorm

        module = copy_module(state.model.module)
        data = context.training_data
        recalibrate_batchnorm(module, data.calibration_batches(BATCH_SIZE, images=self.images), data.batch_dims)
        return state.with_module(module)
