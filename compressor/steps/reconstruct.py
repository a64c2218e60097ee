"""Solve the layers of the pruned model in closed form, so that they give what the dense model gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from compressor.steps.base import Step
from compressor.steps.calibration import BATCH_SIZE, calibration_arguments
from compressor.steps.held_out import held_out_divergences

if TYPE_CHECKING:
    from torch import nn

    from compressor.core import Data, MaskSearch
    from compressor.steps.context import Context
    from compressor.steps.state import PruningState

MAX_ESTIMATED = 512  # samples that new statistics are estimated from
POWERS = (0.0, 0.5, 1.0)  # of the step from the present variances to newly estimated ones


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
    mask_searches: tuple[MaskSearch, ...] = ()  # for a better mask than the given one, where weights are masked

    def __str__(self) -> str:
        return f"Reconstruct({self.images} images)"

    def run(self, state: PruningState, context: Context) -> PruningState:
        """Reconstruct a copy of the model.

        Args:
            state: What the steps before it left.
            context: Its training samples are used, its test samples are not.

        Returns:
            The state with solved weights and the record of every layer; the state itself where nothing was pruned. A
            resumed run reads them where the interrupted run had solved the layers.

        Raises:
            DataError: A sample is not finite.
        """
        from compressor.reconstruction.problem import LayerResult
        from compressor.reconstruction.sequential import ReconstructionResult, reconstruct
        from compressor.reconstruction.solve import RIDGES
        from compressor.reconstruction.solver_options import ReconstructionSettings
        from compressor.steps.stored_results import stored_result

        if not state.is_pruned:
            return state
        settings = ReconstructionSettings(
            mode=self.mode,
            ridges=RIDGES if self.ridge is None else (self.ridge,),
            holdout=self.holdout,
            mask_searches=self.mask_searches,
            pattern=state.sparse.sparsity.pattern if state.sparse else None,
            seed=context.seed,
        )
        data = context.data_with_holdout

        def solve() -> dict[str, Any]:
            result = reconstruct(
                state.baseline.module,
                state.model.module,
                state.kept_of_baseline,
                calibration_arguments(data, self.images),
                settings,
                state.masks,
                progress=context.progress("layers"),
                batch_dims=data.batch_dims,
            )
            module, power = _with_best_statistics(state, result.module, data)
            about = {"layers": result.layers, "masks": result.masks, "images": result.images, "seconds": result.seconds}
            return {"weights": module.state_dict(), "power": power, "about": about}

        solved = stored_result(context.checkpoints, repr(self), state.model.module, solve, (LayerResult,))
        repaired, power = state.with_weights(solved["weights"]), solved["power"]
        result = ReconstructionResult(repaired.model.module, **solved["about"])
        refused = [layer for layer in result.layers if not layer.accepted]
        context.log.note(f"{len(result.layers) - len(refused)} of {len(result.layers)} layers were reconstructed")
        searched = sum(layer.mask_search is not None for layer in result.layers)
        if searched:
            context.log.note(f"the masks of {searched} layers were replaced by better ones")
        if power:
            context.log.note(
                f"BatchNorm statistics were estimated anew (weight {power:.0%}, the old ones {1 - power:.0%})"
            )
        return replace(
            repaired,
            masks=result.masks,
            optimizer={},  # it remembers gradients of other weights
            reconstruction=result,
        )


def _with_best_statistics(state: PruningState, module: nn.Module, data: Data) -> tuple[nn.Module, float]:
    """Choose BatchNorm statistics by the divergence from the dense model on held-out samples.

    A fitted layer explains less than the whole variance of its target, so that BatchNorm sees a smaller one. With s and
    v the variances of the solved network and before, the candidates are v (s / v)^t for the powers t, and means in
    proportion. A power of 0 has the smallest error of every layer, a power of 1 restores the variance.

    Args:
        state: It has the dense model.
        module: The solved network.
        data: It has a held-out split.

    Returns:
        The network with the best statistics, and their power.
    """
    from compressor.execution.copies import copy_module
    from compressor.training.batchnorm_statistics import interpolate_statistics, recalibrate_batchnorm

    estimated = copy_module(module)
    samples = data.calibration_batches(BATCH_SIZE, images=MAX_ESTIMATED)
    if not data.has_holdout or not recalibrate_batchnorm(estimated, samples, data.batch_dims):
        return module, 0.0
    candidates = [interpolate_statistics(module, estimated, power) for power in POWERS]
    divergences = held_out_divergences(state, candidates, data)
    best = divergences.index(min(divergences))
    return candidates[best], POWERS[best]
