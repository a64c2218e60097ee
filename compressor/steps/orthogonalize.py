"""Make filters orthogonal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from compressor.steps.base import Step

if TYPE_CHECKING:
    from compressor.steps.context import Context
    from compressor.steps.state import PruningState


@dataclass(frozen=True, slots=True)
class Orthogonalize(Step):
    """Make the filters of every convolution and linear layer orthogonal, times `gain`."""

    evaluate_as: ClassVar[str] = "after orthogonalisation"

    gain: float

    def __str__(self) -> str:
        return f"Orthogonalize(gain {self.gain:.3g})"

    def run(self, state: PruningState, context: Context) -> PruningState:
        """Replace the weights by orthogonal ones.

        Args:
            state: What the steps before it left.
            context: Not used.

        Returns:
            The state with new weights and without an optimizer's state.
        """
        from compressor.execution.copies import copy_module
        from compressor.training.initialization import orthogonalize

        module = copy_module(state.model.module)
        orthogonalize(module, self.gain)
        return replace(state.with_module(module), optimizer={})
