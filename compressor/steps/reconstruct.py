"""Solve the layers of the pruned model in closed form, so that they give what the dense model gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from compressor.steps.base import Step

if TYPE_CHECKING:
    from compressor.steps.context import Context
    from compressor.steps.state import PruningState

BATCH_SIZE = 64


@dataclass(frozen=True, slots=True)
class Reconstruct(Step):
    """Fit every layer behind a removal or a mask to the dense model's outputs, from samples without labels.

    The certificate is about surgery alone; reconstruction has evidence of its own, the held-out error of every layer.
    """

    needs_data: ClassVar[bool] = True
    in_plan: ClassVar[bool] = False
    compares_answers: ClassVar[bool] = True
    evaluate_as: ClassVar[str] = "after reconstruction"

    images: int = 1024
    mode: Literal["sequential", "parallel"] = "sequential"
    ridge: float | None = None  # None = chosen for every layer by its held-out error
    holdout: float = 0.2  # share of the samples that choose the ridge and accept the fit

    def __str__(self) -> str:
        return f"Reconstruct({self.images} images)"

    def run(self, state: PruningState, context: Context) -> PruningState:
        """Reconstruct a copy of the model.

        Args:
            state: What the steps before it left.
            context: Its training samples are used, its test samples are not.

        Returns:
            The state with solved weights and the record of every layer; the state itself where nothing was pruned.

        Raises:
            DataError: A sample is not finite.
        """
        from compressor.reconstruction.sequential import reconstruct
        from compressor.reconstruction.solve import RIDGES
        from compressor.reconstruction.solver_options import ReconstructionSettings
        from compressor.surgery.removal import relative_kept
        from compressor.tensors import as_arguments

        kept = relative_kept(state.baseline.kept, state.model.kept)
        if not kept and not state.masks and not state.is_smaller:
            return state
        settings = ReconstructionSettings(
            mode=self.mode,
            ridges=RIDGES if self.ridge is None else (self.ridge,),
            holdout=self.holdout,
            pattern=state.sparse.sparsity.pattern if state.sparse else None,
            seed=context.seed,
        )
        batches = context.training_data.calibration_batches(BATCH_SIZE, images=self.images)
        result = reconstruct(
            state.baseline.module,
            state.model.module,
            kept,
            [as_arguments(inputs) for inputs in batches],
            settings,
            state.masks,
            progress=lambda done, total: context.log("progress", {"done": done, "total": total, "what": "layers"}),
        )
        refused = [layer for layer in result.layers if not layer.accepted]
        context.log.note(f"{len(result.layers) - len(refused)} of {len(result.layers)} layers were reconstructed")
        return replace(
            state.with_module(result.module),
            masks=result.masks,
            optimizer={},  # it remembers gradients of other weights
            reconstruction=result,
        )
