"""Unstructured masks: zero all but the best of all weights, in one round or in several."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from compressor.budget.layer_rules import LayerRule, frozen_layers
from compressor.core import Certificate
from compressor.criteria.base import ScoringContext, WeightCriterion, check_finite
from compressor.errors import ModelError, TargetNotReached
from compressor.steps.base import Step
from compressor.steps.mask_nm import MASKED_WEIGHTS

if TYPE_CHECKING:
    from torch import Tensor

    from compressor.steps.context import Context
    from compressor.steps.state import PruningState

Masks = Mapping[str, "Tensor"]


@dataclass(frozen=True, slots=True)
class MaskUnstructured(Step):
    """Zero all but the best of the weights of all convolutions and linear layers. The next training keeps zeros zero.

    Scores are computed in every round, on the network in which the weights masked so far are zero.
    """

    reaches_target: ClassVar[bool] = True
    in_plan: ClassVar[bool] = False
    evaluate_as: ClassVar[str] = "after masking"

    criterion: WeightCriterion
    keep: tuple[float, ...]  # share of the ORIGINAL's weights that may remain after each round
    nested: bool = True  # masked weights stay masked; else every round compares all weights by their original values
    guard: bool = True  # every layer keeps its best weight
    rules: tuple[LayerRule, ...] = ()

    def __str__(self) -> str:
        rounds = f", {len(self.keep)} rounds" if len(self.keep) > 1 else ""
        return f"MaskUnstructured({self.criterion.name}, {100 * self.keep[-1]:.4g} % remain{rounds})"

    @property
    def needs_data(self) -> bool:
        return self.criterion.needs_data

    def check_feasible(self, state: PruningState, context: Context) -> None:
        """Count the weights that each round keeps.

        Args:
            state: The state at the beginning of the run.
            context: Not used.

        Raises:
            TargetNotReached: The frozen weights alone are more than the target.
            ModelError: There is no weight to mask.
            RecipeError: A rule matches no layer.
        """
        weights = self._maskable(state)
        self._counts(state, weights, _all_true(weights))

    def run(self, state: PruningState, context: Context) -> PruningState:
        """Mask the weights.

        Args:
            state: What the steps before it left.
            context: Data and seed for the criterion.

        Returns:
            The state with masks, and with zeros where they are False.

        Raises:
            TargetNotReached: The frozen weights alone are more than the target.
            ModelError: There is no weight to mask.
            VerificationFailed: A score is not finite.
        """
        from compressor.sparsity.masking import all_weights, apply_masks
        from compressor.sparsity.topk_masks import topk_masks

        weights = self._maskable(state)
        everything = _all_true(weights)
        masks: Masks = {name: state.masks.get(name, mask) for name, mask in everything.items()}
        counts = self._counts(state, weights, masks)
        scoring = ScoringContext(context.data, context.seed, 0, state.example_inputs(), context.log)
        emptied: tuple[str, ...] = ()
        for index, count in enumerate(counts):
            module = apply_masks(state.model.module, masks)
            masks_so_far = masks if self.nested else {}
            scores = self.criterion.score_weights(module, weights, masks_so_far, replace(scoring, round=index))
            scores = {name: scores[name] for name in weights}
            check_finite("weights", scores)
            best = topk_masks(scores, count, masks if self.nested else everything, guard=self.guard)
            masks = best.masks
            emptied = tuple(dict.fromkeys((*emptied, *best.saved))) if self.guard else best.saved
            context.log("progress", {"done": index + 1, "total": len(counts), "what": "rounds of masks"})
        self._log_emptied(emptied, context)
        module = apply_masks(state.model.module, masks)
        values = all_weights(module)
        error = max(float((values[name] - weights[name] * mask).abs().max()) for name, mask in masks.items())
        return replace(
            state,
            model=replace(state.model, module=module, original=state.baseline.cost),
            certificate=Certificate((MASKED_WEIGHTS,), error, error, error == 0).combine(state.certificate),
            masks={**state.masks, **masks},
        )

    def _maskable(self, state: PruningState) -> dict[str, Tensor]:
        """The weights that are compared: those of layers that run and that the recipe does not freeze."""
        from compressor.graph.cost import macs_by_weight
        from compressor.sparsity.masking import all_weights

        module = state.model.module
        running = macs_by_weight(module, *state.example_inputs())
        weights = {name: weight for name, weight in all_weights(module).items() if name in running}
        frozen = frozen_layers([_layer(name) for name in weights], self.rules)
        free = {name: weight for name, weight in weights.items() if _layer(name) not in frozen}
        if not free:
            problem = f"all {len(weights)} layers are frozen" if weights else "no convolution or linear layer"
            raise ModelError(
                "nothing-to-mask/all-frozen", state.model.name, problem, "unfreeze some of them in prune.layers"
            )
        return free

    def _counts(self, state: PruningState, free: Mapping[str, Tensor], masks: Masks) -> list[int]:
        """How many of the free weights each round keeps."""
        from compressor.graph.cost import count_cost

        original = state.baseline.cost.weights
        masked_before = sum(int((~mask).sum()) for name, mask in state.masks.items() if name not in free)
        now = count_cost(state.model.module, *state.example_inputs()).weights
        fixed = now - masked_before - sum(weight.numel() for weight in free.values())
        available = masks if self.nested else _all_true(free)
        limit = sum(int(mask.sum()) for mask in available.values())
        counts = [min(limit, math.floor(share * original + 1e-6) - fixed) for share in self.keep]
        fewest = len(free) if self.guard else 1
        if min(counts) < fewest:
            problem = f"at least {fixed + fewest:,} of {original:,} weights remain, the target is {self.keep[-1]:.4%}"
            hint = "raise the target, or unfreeze layers"
            raise TargetNotReached("target-not-reachable/too-few-weights", "prune.target.weights", problem, hint)
        return counts

    def _log_emptied(self, emptied: tuple[str, ...], context: Context) -> None:
        names = ", ".join(name.removesuffix(".weight") for name in emptied)
        if emptied and self.guard:
            context.log.note(f"no weight would have been left of {names}: the best of each is kept")
        elif emptied:
            context.log.warning(f"no weight is left of {names}")


def _layer(weight: str) -> str:
    return weight.rpartition(".")[0]


def _all_true(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    import torch

    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
