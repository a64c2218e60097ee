"""Start again from random weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from compressor.core import PrunePlan
from compressor.steps.base import Step

if TYPE_CHECKING:
    from compressor.steps.context import Context
    from compressor.steps.state import PruningState


@dataclass(frozen=True, slots=True)
class Reinitialize(Step):
    """Draw random weights; the retraining may then last longer, to match what the dense model was trained for."""

    dense_epochs: int = 0  # that the dense model was trained for
    flops: bool = False  # match multiply-adds instead of epochs

    def __str__(self) -> str:
        return f"Reinitialize(equal {'FLOPs' if self.flops else 'epochs'})" if self.dense_epochs else "Reinitialize"

    def extra_epochs(self, macs_ratio: float) -> int:
        """Epochs that the retraining lasts longer; `macs_ratio` is dense / slim."""
        return round(self.dense_epochs * (macs_ratio if self.flops else 1.0))

    def run(self, state: PruningState, context: Context) -> PruningState:
        """Draw the weights.

        Args:
            state: What the steps before it left.
            context: Its seed determines the weights.

        Returns:
            The state with new weights and without an optimizer's state.
        """
        from compressor.execution.copies import copy_module
        from compressor.graph.cost import count_cost
        from compressor.training.initialization import reinitialize

        module = copy_module(state.model.module)
        reinitialize(module, context.seed)
        if state.removed is None:
            context.log.note(f"weights were drawn anew with seed {context.seed}; dense is the model as given")
        dense_macs = state.baseline.graph.cost.of(PrunePlan({})).macs
        ratio = dense_macs / count_cost(module, *state.example_inputs()).macs
        extra_epochs = state.extra_epochs + self.extra_epochs(ratio)
        return replace(state.with_module(module), optimizer={}, extra_epochs=extra_epochs)
