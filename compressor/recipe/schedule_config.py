"""The `schedule` block: learning-rate schedules by name, and what of them does not fit into `retrain.epochs`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from compressor.field_types import ClosedFraction, Count, NonNegative, OpenFraction, Positive, PositiveFraction, refused
from compressor.recipe.block import Conflict, RecipeBlock
from compressor.training import schedules
from compressor.training.train_settings import Schedule


def default_name(name: str) -> BeforeValidator:
    """Give a block without a name this one, so that `--set retrain.optimizer.lr=0.1` alone has a meaning."""
    return BeforeValidator(lambda value: {"name": name, **value} if isinstance(value, dict) else value)


def _check_order(milestones: tuple[float, ...]) -> tuple[float, ...]:
    if any(later <= earlier for earlier, later in pairwise(milestones)):
        raise refused("epochs in increasing order")
    return milestones


Milestones = Annotated[tuple[Positive, ...], Field(min_length=1), AfterValidator(_check_order)]
EndFactor = Annotated[ClosedFraction, Field(description="factor on the base rate at the end")]
DropFactor = Annotated[PositiveFraction, Field(description="factor of each drop")]


class ScheduleConfig(RecipeBlock):
    """A schedule; its lengths are in epochs."""

    of_original: ClassVar[bool] = False  # the base rate is that of the training which the dense model comes from

    name: str
    warmup: NonNegative = Field(
        default=0.0,
        description="epochs of a linear warm-up from 0 to the schedule's own value, less than retrain.epochs",
    )

    def schedule(self, epochs: int, lr: float) -> Schedule:
        """Return the schedule, from the epochs done to a factor on the learning rate.

        Args:
            epochs: The length of the training.
            lr: The base rate.
        """
        factor = self._factor(epochs, lr)
        return schedules.warmup(factor, self.warmup) if self.warmup else factor

    def misfits(self, epochs: int, lr: float | None) -> Iterator[Conflict]:
        """Return the keys that do not fit to the training.

        Args:
            epochs: The length of the training.
            lr: The base rate; None if it is itself at fault.

        Returns:
            Each key with what is allowed.
        """
        if self.warmup >= epochs:
            yield "warmup", f"less than retrain.epochs, {epochs}"
        yield from self._misfits(epochs, lr)

    def _factor(self, epochs: int, lr: float) -> Schedule:
        """The schedule without its warm-up."""
        raise NotImplementedError

    def _misfits(self, epochs: int, lr: float | None) -> Iterator[Conflict]:
        """The keys other than `warmup` that do not fit."""
        return iter(())


class Constant(ScheduleConfig):
    name: Literal["constant"] = "constant"

    def _factor(self, epochs: int, lr: float) -> Schedule:
        return schedules.constant()


class StepDecay(ScheduleConfig):
    name: Literal["step"] = "step"
    size: Positive = Field(description="epochs between two drops")
    gamma: DropFactor = 0.1

    def _factor(self, epochs: int, lr: float) -> Schedule:
        return schedules.step(self.size, self.gamma)

    def _misfits(self, epochs: int, lr: float | None) -> Iterator[Conflict]:
        if self.size > epochs:
            yield "size", f"a number up to retrain.epochs, which is {epochs}"


class Multistep(ScheduleConfig):
    name: Literal["multistep"] = "multistep"
    milestones: Milestones = Field(description="epochs of the drops")
    gamma: DropFactor = 0.1

    def _factor(self, epochs: int, lr: float) -> Schedule:
        return schedules.multistep(self.milestones, self.gamma)

    def _misfits(self, epochs: int, lr: float | None) -> Iterator[Conflict]:
        if self.milestones[-1] >= epochs:
            yield "milestones", f"numbers below retrain.epochs, which is {epochs}"


class Cosine(ScheduleConfig):
    name: Literal["cosine"] = "cosine"
    end: EndFactor = 0.0

    def _factor(self, epochs: int, lr: float) -> Schedule:
        return schedules.cosine(epochs, self.end)


class Polynomial(ScheduleConfig):
    name: Literal["polynomial"] = "polynomial"
    power: Positive = Field(default=1.0, description="1 = a straight line; above 1 = fast at first")
    end: EndFactor = 0.0

    def _factor(self, epochs: int, lr: float) -> Schedule:
        return schedules.polynomial(epochs, self.power, self.end)


class OneCycle(ScheduleConfig):
    name: Literal["onecycle"] = "onecycle"
    rise: OpenFraction = Field(default=0.3, description="share of the epochs in which the rate rises")
    start: PositiveFraction = Field(default=0.04, description="factor on the base rate at the start")
    end: EndFactor = 1e-4

    def _factor(self, epochs: int, lr: float) -> Schedule:
        return schedules.onecycle(epochs, self.rise, self.start, self.end)


class Halving(ScheduleConfig):
    """The rule behind `P30F90, 1e-1`: optimizer.lr is the initial rate of the retraining (arXiv:2301.05219)."""

    name: Literal["halving"] = "halving"
    end: Positive = Field(default=1e-5, description="learning rate of the last stage, below optimizer.lr")
    longest: Count = Field(default=30, description="epochs of a stage at most; the last stage may be longer")

    def _factor(self, epochs: int, lr: float) -> Schedule:
        return schedules.halving(epochs, lr, self.end, self.longest)

    def _misfits(self, epochs: int, lr: float | None) -> Iterator[Conflict]:
        if lr is None:
            return
        if self.end >= lr:
            yield "end", f"below retrain.optimizer.lr, {lr:g}"
            return
        milestones = schedules.halving_milestones(epochs, lr, self.end, self.longest)
        if milestones[-1] >= epochs:
            enough = 2 ** len(milestones)
            yield "name", f"halving from {lr:g} to {self.end:g} in retrain.epochs of at least {enough}, not {epochs}"
