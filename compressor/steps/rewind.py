"""Lottery tickets: save the weights of an early epoch, and return to them under the masks that training found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from compressor.steps.base import Step

if TYPE_CHECKING:
    from compressor.steps.context import Context
    from compressor.steps.state import PruningState


@dataclass(frozen=True, slots=True)
class SaveWeights(Step):
    """Save the weights, the buffers and the optimizer's state as they are now."""

    def run(self, state: PruningState, context: Context) -> PruningState:
        """Save them.

        Args:
            state: What the steps before it left.
            context: Not used.

        Returns:
            The state with a snapshot.
        """
        from compressor.steps.state import Snapshot

        weights = {name: tensor.detach().clone() for name, tensor in state.model.module.state_dict().items()}
        return replace(state, saved=Snapshot(weights, state.optimizer))


@dataclass(frozen=True, slots=True)
class RewindWeights(Step):
    """Return to the last `SaveWeights`, bit for bit, except that masked weights are zero."""

    def run(self, state: PruningState, context: Context) -> PruningState:
        """Restore the snapshot.

        Args:
            state: The state with a snapshot.
            context: Not used.

        Returns:
            The state with the saved weights, buffers and optimizer's state.
        """
        from compressor.sparsity.masking import apply_masks_

        assert state.saved is not None, "SaveWeights comes before RewindWeights"
        rewound = state.with_weights(state.saved.weights)
        apply_masks_(rewound.model.module, state.masks)
        return replace(rewound, optimizer=state.saved.optimizer)
