"""Learning-rate schedules of their own, by name, and what of them does not fit into the epochs there are."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from compressor.recipe.fields import Count, Factor, NotNegative, Number, Positive, RecipeBlock, refused
from compressor.training import schedules
from compressor.training.settings import Schedule


def schedule_key(default: str) -> BeforeValidator:
    """A block without a name is the default kind, so that `--set retrain.optimizer.lr=0.1` alone means something."""

    def fill(value: Any) -> Any:
        return {"name": default, **value} if isinstance(value, dict) else value

    return BeforeValidator(fill)


def _increase(milestones: tuple[float, ...]) -> tuple[float, ...]:
    if any(later <= earlier for earlier, later in pairwise(milestones)):
        raise refused("epochs in increasing order")
    return milestones


Milestones = Annotated[tuple[Positive, ...], Field(min_length=1), AfterValidator(_increase)]
End = Annotated[Number, Field(ge=0, le=1, description="share of the rate left at the end")]


class ScheduleConfig(RecipeBlock):
    """Lengths are in epochs. `warmup`: a line from 0 to the schedule's own value over the first epochs."""

    of_original: ClassVar[bool] = False  # whether the base rate is that of the training the model comes from

    name: str
    warmup: NotNegative = Field(default=0.0, description="epochs of linear warm-up from 0, less than retrain.epochs")

    def to_core(self, epochs: int, lr: float) -> Schedule:
        """epochs done -> factor on the learning rate, for a training of `epochs` at the base rate `lr`."""
        factor = self.factor(epochs, lr)
        return schedules.warmup(factor, self.warmup) if self.warmup else factor

    def factor(self, epochs: int, lr: float) -> Schedule:
        """The schedule without its warm-up."""
        raise NotImplementedError

    def unfit(self, epochs: int, lr: float | None) -> Iterator[tuple[str, str]]:
        """The keys that do not fit into `epochs` at the base rate `lr`, where that is known, and what would."""
        if self.warmup >= epochs:
            yield "warmup", f"less than retrain.epochs, {epochs}"


class Constant(ScheduleConfig):
    name: Literal["constant"] = "constant"

    def factor(self, epochs: int, lr: float) -> Schedule:
        return schedules.constant()


class StepDecay(ScheduleConfig):
    name: Literal["step"] = "step"
    size: Positive = Field(description="epochs between two drops")
    gamma: Factor = Field(default=0.1, description="factor of each drop")

    def factor(self, epochs: int, lr: float) -> Schedule:
        return schedules.step(self.size, self.gamma)

    def unfit(self, epochs: int, lr: float | None) -> Iterator[tuple[str, str]]:
        yield from super().unfit(epochs, lr)
        if self.size > epochs:
            yield "size", f"at most retrain.epochs, {epochs}: the schedule outlives its epochs"


class Multistep(ScheduleConfig):
    name: Literal["multistep"] = "multistep"
    milestones: Milestones = Field(description="epochs of the drops")
    gamma: Factor = Field(default=0.1, description="factor of each drop")

    def factor(self, epochs: int, lr: float) -> Schedule:
        return schedules.multistep(self.milestones, self.gamma)

    def unfit(self, epochs: int, lr: float | None) -> Iterator[tuple[str, str]]:
        yield from super().unfit(epochs, lr)
        if self.milestones[-1] >= epochs:
            yield "milestones", f"all below retrain.epochs, {epochs}: the schedule outlives its epochs"


class Cosine(ScheduleConfig):
    name: Literal["cosine"] = "cosine"
    end: End = 0.0

    def factor(self, epochs: int, lr: float) -> Schedule:
        return schedules.cosine(epochs, self.end)


class Polynomial(ScheduleConfig):
    name: Literal["polynomial"] = "polynomial"
    power: Positive = Field(default=1.0, description="1 = a straight line, more = fast at first")
    end: End = 0.0

    def factor(self, epochs: int, lr: float) -> Schedule:
        return schedules.polynomial(epochs, self.power, self.end)


class OneCycle(ScheduleConfig):
    name: Literal["onecycle"] = "onecycle"
    rise: Annotated[Number, Field(gt=0, lt=1)] = Field(default=0.3, description="share of the epochs spent rising")
    start: Factor = Field(default=0.04, description="share of the rate at the start")
    end: End = 1e-4

    def factor(self, epochs: int, lr: float) -> Schedule:
        return schedules.onecycle(epochs, self.rise, self.start, self.end)


class Halving(ScheduleConfig):
    """The rule behind `P30F90, 1e-1`: optimizer.lr is the initial rate of the retraining (arXiv:2301.05219)."""

    name: Literal["halving"] = "halving"
    end: Positive = Field(default=1e-5, description="learning rate of the last stage, below optimizer.lr")
    longest: Count = Field(default=30, description="epochs of a stage at most; the last one takes what is left")

    def factor(self, epochs: int, lr: float) -> Schedule:
        return schedules.halving(epochs, lr, self.end, self.longest)

    def unfit(self, epochs: int, lr: float | None) -> Iterator[tuple[str, str]]:
        yield from super().unfit(epochs, lr)
        if lr is None:
            return
        if self.end >= lr:
            yield "end", f"below retrain.optimizer.lr, {lr:g}"
            return
        milestones = schedules.halving_milestones(epochs, lr, self.end, self.longest)
        if milestones[-1] >= epochs:
            enough = 2 ** len(milestones)
            yield "name", f"halving from {lr:g} to {self.end:g} in retrain.epochs of at least {enough}, not {epochs}"
