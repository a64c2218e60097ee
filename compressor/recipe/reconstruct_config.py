"""The `reconstruct` block: least squares after surgery or masking, from samples without labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StrictBool

from compressor.core import MaskSearch
from compressor.field_types import Count, NonNegative, Positive
from compressor.recipe.block import RecipeBlock
from compressor.recipe.fields import Share
from compressor.steps.reconstruct import Reconstruct
from compressor.steps.refine import Refine

MASK_SEARCHES: Mapping[str, tuple[MaskSearch, ...]] = {
    "none": (),
    "sparsegpt": ("sparsegpt",),
    "obc": ("obc",),
    "both": ("sparsegpt", "obc"),
}


class RefineConfig(RecipeBlock):
    """All layers are trained together on the dense model's feature maps. No label is used."""

    images: Count = Field(default=1024, description="samples at most")
    work: Positive = Field(
        default=1.5, description="multiply-adds at most, in units of 10^12; it limits the images, and passes over them"
    )


class ReconstructConfig(RecipeBlock):
    """Every layer behind a removal or a mask is fitted to what the dense model gives. No label is used."""

    images: Count = Field(default=1024, description="samples that layers are fitted to")
    mode: Literal["sequential", "parallel"] = Field(
        default="sequential",
        description="sequential = every layer is fitted to the inputs that the reconstructed layers before it give",
    )
    ridge: NonNegative | Literal["auto"] = Field(
        default="auto", description="relative to the mean variance of the inputs; auto = chosen by held-out error"
    )
    holdout: Share = Field(
        default=0.2, description="share of the samples held out to choose the ridge and to accept or refuse every fit"
    )
    mask_search: Literal["none", "sparsegpt", "obc", "both"] = Field(
        default="both",
        description="for masked weights: another mask of as many zeros replaces the given one where its refit has the "
        "smaller held-out error; obc = exact, for small layers",
    )
    refine: StrictBool | RefineConfig = Field(
        default=False, description="train all layers together on the dense model's feature maps afterwards"
    )

    def step(self) -> Reconstruct:
        """Return the step."""
        ridge = None if self.ridge == "auto" else self.ridge
        return Reconstruct(self.images, self.mode, ridge, self.holdout, MASK_SEARCHES[self.mask_search])

    def refine_step(self) -> Refine | None:
        """Return the step that refines, or None if there is none."""
        if self.refine is False:
            return None
        settings = RefineConfig() if self.refine is True else self.refine
        return Refine(settings.images, settings.work)


def _word(value: object) -> object:
    return "off" if value is False else value  # YAML 1.1 reads off as false


AutoReconstruct = Annotated[ReconstructConfig | Literal["auto", "off"], BeforeValidator(_word)]
"""auto = on where channels or weights of a trained model are pruned and samples are there."""
