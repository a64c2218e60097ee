"""Schedules that repeat a part of the original training, the one that the dense model comes from."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from compressor.field_types import Count, FractionBelowOne, OpenFraction, refused
from compressor.recipe.block import Conflict, RecipeBlock
from compressor.recipe.schedule_config import DropFactor, EndFactor, Milestones, ScheduleConfig, default_name
from compressor.training import schedules
from compressor.training.train_settings import Schedule


class OriginalMultistep(RecipeBlock):
    """The original training, if its rate fell at milestones."""

    name: Literal["multistep"] = "multistep"
    epochs: Count = Field(description="epochs that the dense model was trained for")
    milestones: Milestones = Field(description="epochs of the drops")
    gamma: DropFactor = 0.1

    @field_validator("milestones")
    @classmethod
    def _check_milestones(cls, milestones: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        epochs = info.data.get("epochs", milestones[-1] + 1)  # absent where it is itself at fault
        if milestones[-1] >= epochs:
            raise refused(f"all below the original's epochs, {epochs}")
        return milestones

    def factor(self) -> Schedule:
        return schedules.multistep(self.milestones, self.gamma)

    def scaled(self, epochs: float) -> Schedule:
        """The same schedule in another number of epochs, its drops rounded down to whole epochs."""
        return schedules.multistep(self._milestones(epochs), self.gamma)

    def crowded(self, epochs: float) -> bool:
        """Whether two of the scaled drops, or a drop and the start, fall into the same epoch."""
        return any(later <= earlier for earlier, later in pairwise((0, *self._milestones(epochs))))

    def _milestones(self, epochs: float) -> tuple[int, ...]:
        return schedules.scaled_milestones(self.milestones, self.epochs, epochs)


class OriginalCosine(RecipeBlock):
    """The original training, if its rate followed half a cosine."""

    name: Literal["cosine"] = "cosine"
    epochs: Count = Field(description="epochs that the dense model was trained for")
    end: EndFactor = 0.0

    def factor(self) -> Schedule:
        return schedules.cosine(self.epochs, self.end)

    def scaled(self, epochs: float) -> Schedule:
        return schedules.cosine(epochs, self.end)

    def crowded(self, epochs: float) -> bool:
        return False


CIFAR = OriginalMultistep(epochs=160, milestones=(80, 120))
Original = Annotated[
    OriginalMultistep | OriginalCosine,
    Field(
        discriminator="name", description="the training that the dense model comes from; optimizer.lr is its base rate"
    ),
    default_name("multistep"),
]


class CLR(ScheduleConfig):
    """Cyclic restart. retrain.optimizer.lr is the base rate of the ORIGINAL training (arXiv:2105.03193)."""

    of_original = True
    name: Literal["clr"] = "clr"
    rise: OpenFraction = Field(default=0.1, description="share of the epochs in which the rate rises")

    def _factor(self, epochs: int, lr: float) -> Schedule:
        return schedules.clr(epochs, self.rise)


class FT(ScheduleConfig):
    """Fine-tuning at the original's last rate. retrain.optimizer.lr is the ORIGINAL's base rate (arXiv:2003.02389)."""

    of_original = True
    name: Literal["ft"] = "ft"
    original: Original = CIFAR

    def _factor(self, epochs: int, lr: float) -> Schedule:
        return schedules.ft(self.original.factor(), self.original.epochs)


class LRW(ScheduleConfig):
    """Learning-rate rewinding. retrain.optimizer.lr is the base rate of the ORIGINAL training (arXiv:2003.02389)."""

    of_original = True
    name: Literal["lrw"] = "lrw"
    original: Original = CIFAR

    def _factor(self, epochs: int, lr: float) -> Schedule:
        return schedules.lrw(self.original.factor(), self.original.epochs, epochs)

    def _misfits(self, epochs: int, lr: float | None) -> Iterator[Conflict]:
        if epochs > (most := self.original.epochs):
            yield "name", f"lrw in retrain.epochs of at most schedule.original.epochs, {most}, not {epochs}"


class SLR(ScheduleConfig):
    """Scaled restart. retrain.optimizer.lr is the base rate of the ORIGINAL training (arXiv:2105.03193)."""

    of_original = True
    name: Literal["slr"] = "slr"
    rise: FractionBelowOne = Field(
        default=0.1,
        description="share of the epochs in which the rate rises from the original's last to its first rate",
    )
    original: Original = CIFAR

    def _factor(self, epochs: int, lr: float) -> Schedule:
        last = schedules.ft(self.original.factor(), self.original.epochs)(0)
        (rise,) = schedules.scaled_milestones([self.rise], 1, epochs)
        return schedules.slr(self.original.scaled((1 - self.rise) * epochs), rise, start=last)

    def _misfits(self, epochs: int, lr: float | None) -> Iterator[Conflict]:
        if self.original.crowded((1 - self.rise) * epochs):
            yield "name", f"slr in more retrain.epochs than {epochs}: the original's drops fall into the same epoch"
