"""N:M masks: zero all but the largest N of every M consecutive weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from compressor.core import Certificate
from compressor.errors import ModelError
from compressor.sparsity.runtimes import NMSparsity
from compressor.steps.base import Step

if TYPE_CHECKING:
    from compressor.steps.context import Context
    from compressor.steps.state import PruningState

MASKED_WEIGHTS = "masked-weights"
"""Kind of the certificate that every weight is either unchanged or zero, as its mask says."""


@dataclass(frozen=True, slots=True)
class MaskNM(Step):
    """Zero all but the largest N of every M weights. The next training keeps zeros, or lets others take their place.

    `regrow`: the strength with which SR-STE decays masked weights while it trains them; None = zeros stay zero.
    """

    evaluate_as: ClassVar[str] = "after masking"

    sparsity: NMSparsity
    regrow: float | None = None

    def __str__(self) -> str:
        return f"MaskNM({self.sparsity.pattern}{'' if self.regrow is None else ', SR-STE'})"

    def run(self, state: PruningState, context: Context) -> PruningState:
        """Mask the layers that the runtime can use.

        Args:
            state: What the steps before it left.
            context: Not used.

        Returns:
            The state with masks, and with what they keep of each layer.

        Raises:
            ModelError: No layer can be masked.
        """
        from compressor.sparsity.masking import apply_masks, candidates, maskable_weights
        from compressor.sparsity.nm_masks import magnitude_mask, satisfies_pattern
        from compressor.sparsity.retained_magnitude import measure_retained
        from compressor.sparsity.sr_ste import SRSTEState

        model, pattern = state.model, self.sparsity.pattern
        layers = candidates(model.module, self.sparsity)
        dense = maskable_weights(model.module, layers)
        if not dense:
            reasons = sorted({layer.reason for layer in layers if layer.reason})
            problem = f"no layer can be masked {pattern} ({'; '.join(reasons[:3]) or 'no convolution or linear layer'})"
            raise ModelError(
                "nothing-to-mask/no-eligible-layer", model.name, problem, "choose another prune.2of4.runtime or pattern"
            )
        masks = {name: magnitude_mask(weight, pattern) for name, weight in dense.items()}
        module = apply_masks(model.module, masks)
        sparse = maskable_weights(module, layers)
        error = max(float((sparse[name] - dense[name] * mask).abs().max()) for name, mask in masks.items())
        ok = error == 0 and all(satisfies_pattern(weight, pattern) for weight in sparse.values())
        return replace(
            state,
            model=replace(model, module=module, original=state.baseline.cost),
            certificate=Certificate((MASKED_WEIGHTS,), error, error, ok).combine(state.certificate),
            masks=masks,
            sparse=measure_retained(model.module, self.sparsity, state.sparse),
            regrow=None if self.regrow is None else SRSTEState(pattern, self.regrow, dense),
        )
