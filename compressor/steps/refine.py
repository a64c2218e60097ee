"""Train all layers of a repaired model together, on the dense model's feature maps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from compressor.core import PrunePlan
from compressor.steps.base import Step
from compressor.steps.calibration import calibration_arguments
from compressor.steps.held_out import held_out_divergences

if TYPE_CHECKING:
    from compressor.steps.context import Context
    from compressor.steps.state import PruningState

MAX_PASSES = 4  # over the samples
MIN_IMAGES = 512  # fewer give too few iterations
SAMPLES = 2**31  # bytes of the samples, which are held in memory


@dataclass(frozen=True, slots=True)
class Refine(Step):
    """Bring the slim model's feature maps closer to the dense model's, see `reconstruction/refinement.py`.

    The result is kept where the answers on held-out samples are closer, too. `work` bounds the multiply-adds of all
    passes; more images are used before more passes, because they are worth more.
    """

    needs_data: ClassVar[bool] = True
    in_plan: ClassVar[bool] = False
    compares_answers: ClassVar[bool] = True
    evaluate_as: ClassVar[str] = "after refinement"

    images: int = 1024
    work: float = 1.5  # 10^12 multiply-adds, in all

    def __str__(self) -> str:
        return f"Refine(up to {self.images} images)"

    def run(self, state: PruningState, context: Context) -> PruningState:
        """Refine a copy of the model.

        Args:
            state: What the steps before it left.
            context: Its training samples are used, its test samples are not.

        Returns:
            The state with the refined weights; the state itself where nothing was pruned, where `work` allows fewer
            than MIN_IMAGES, where the network cannot be refined, or where its answers did not come closer.

        Raises:
            DataError: A sample is not finite.
        """
        from compressor.batches import batch_length
        from compressor.graph.cost import count_cost
        from compressor.reconstruction.refinement import refine
        from compressor.reconstruction.solver_options import ReconstructionSettings
        from compressor.steps.stored_results import stored_result

        if not state.is_pruned:
            return state
        slim = count_cost(state.model.module, *state.example_inputs()).macs
        dense = state.baseline.graph.cost.of(PrunePlan({})).macs
        per_image = max(3 * slim + dense, 1)  # a gradient costs as much as two forward passes
        most = self.work * 1e12 / per_image  # images in all passes
        if most < min(self.images, MIN_IMAGES):
            work = f"an image takes {per_image / 1e9:.3g} billion multiply-adds"
            context.log.note(f"the network was not refined: {work}; raise reconstruct.refine.work above {self.work:g}")
            return state
        data = context.data_with_holdout
        if not data.has_holdout:
            context.log.note("the network was not refined: no sample can be held out to judge it by")
            return state
        in_memory = SAMPLES // sum(tensor.nbytes for tensor in state.example_inputs())
        images = int(min(self.images, most, max(in_memory, 1)))
        batches = calibration_arguments(data, images)
        passes = min(MAX_PASSES, int(most // sum(batch_length(inputs, data.batch_dims) for inputs in batches)))

        def train() -> dict[str, Any] | None:
            refined = refine(
                state.baseline.module,
                state.model.module,
                state.kept_of_baseline,
                batches,
                ReconstructionSettings(seed=context.seed),
                passes,
                state.masks,
                progress=context.progress("batches"),
                batch_dims=data.batch_dims,
            )
            return None if refined is None else refined.state_dict()

        weights = stored_result(context.checkpoints, repr(self), state.model.module, train)
        if weights is None:
            context.log.note("the network was not refined: it takes too much memory, or has no gradient or map")
            return state
        refined = state.with_weights(weights)
        before, after = held_out_divergences(state, (state.model.module, refined.model.module), data)
        change = f"divergence from the dense model on held-out samples {before:.3g} -> {after:.3g}"
        if not after < before:
            context.log.note(f"refinement was undone: {change}")
            return state
        context.log.note(f"refinement: {change}")
        return replace(refined, optimizer={})
