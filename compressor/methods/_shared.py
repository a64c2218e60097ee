"""Settings that many methods have: the weights to start from, the images to score with, and the masks of weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool

from compressor.budget.target import PruningTarget
from compressor.criteria.base import WeightCriterion
from compressor.field_types import Count, FormerKey, former_words
from compressor.methods.base import SettingsGroup
from compressor.steps.base import Step
from compressor.steps.mask_unstructured import MaskUnstructured
from compressor.steps.reinitialize import Reinitialize

Start = Annotated[
    Literal["given", "random"],
    Field(description="initial weights: given = those of the model; random = new ones, drawn with `seed`"),
]

BatchNormMode = Annotated[
    Literal["eval", "train"],
    FormerKey("norms", former_words({"running": "eval", "batch": "train"})),
    Field(
        description="statistics of BatchNorm while scores are computed: eval = running estimates; train = the batch's"
    ),
]


def initial_weights(start: Start) -> tuple[Step, ...]:
    """Return the step that draws new weights, or none if the model's own are used."""
    return (Reinitialize(),) if start == "random" else ()


class ScoringImages(SettingsGroup):
    """Training images whose gradients give the scores. Test images are never used."""

    batches: Count = Field(default=5, description="number of batches of training images that gradients are computed on")
    batch_size: Count = Field(default=128, description="images in each of these batches")


class GlobalMask(SettingsGroup):
    """A mask of single weights, which are compared over all layers. It is fixed while the recipe retrains."""

    keep_one_per_layer: Annotated[StrictBool, FormerKey("guard")] = Field(
        default=True, description="every layer keeps at least the weight with its highest score"
    )

    def step(
        self,
        criterion: WeightCriterion,
        target: PruningTarget,
        remaining: tuple[float, ...] = (),
        *,
        nested: bool = True,
    ) -> MaskUnstructured:
        """Return the step that masks the weights with the lowest scores.

        Args:
            criterion: Gives the score of every weight.
            target: The pruning target; its layer rules say which layers are left alone.
            remaining: The share of weights that remains after each round; empty: one round that meets the target.
            nested: Whether a weight that was masked stays masked in later rounds.

        Returns:
            The step.
        """
        shares = remaining or (final_share(target),)
        return MaskUnstructured(criterion, shares, nested, self.keep_one_per_layer, target.rules)


def final_share(target: PruningTarget) -> float:
    """Return the share of weights that may remain. The recipe of a method that masks weights always names one."""
    assert target.weights is not None, "recipes of these methods have prune.target.weights"
    return target.weights
