"""Settings that methods with a regularising training have in common."""

from __future__ import annotations

from functools import partial
from typing import Annotated, ClassVar

from pydantic import AllowInfNan, BaseModel, Field, Strict

from compressor.steps.train import Train
from compressor.training.penalty import Penalty, StrengthSchedule
from compressor.training.penalty_terms import stepwise_growth, strength_rise
from compressor.training.schedules import constant
from compressor.training.settings import OptimizerSettings

Positive = Annotated[float, Strict(), AllowInfNan(False), Field(gt=0)]
NotNegative = Annotated[float, Strict(), AllowInfNan(False), Field(ge=0)]
Count = Annotated[int, Strict(), Field(ge=1)]
Whole = Annotated[int, Strict(), Field(ge=0)]
Truth = Annotated[bool, Strict()]


class Regularising(BaseModel):
    """How the training runs in which a penalty works: SGD at one learning rate."""

    name: ClassVar[str]

    batch_size: Count = 128
    lr: Positive = 1e-3
    momentum: Annotated[float, Strict(), AllowInfNan(False), Field(ge=0, lt=1)] = 0.9
    weight_decay: NotNegative = 5e-4

    def train(self, penalty: Penalty, *, epochs: int | None, iterations: int | None = None) -> Train:
        """For so many epochs, or for so many iterations where no epochs are given."""
        return Train(
            batch_size=self.batch_size,
            optimizer=OptimizerSettings("sgd", self.lr, self.momentum, self.weight_decay, key=f"prune.{self.name}.lr"),
            schedule=constant(),
            epochs=epochs or 0,
            iterations=None if epochs else iterations,
            stage="regularisation",
            penalty=penalty,
        )


class Growing(Regularising):
    """A strength that grows by `growth` every so many iterations up to `ceiling`, and then holds."""

    epochs: Count | None = Field(
        default=None, description="whole length in epochs, growth and hold scaled to it; null = the iterations below"
    )
    growth: Positive = Field(default=1e-4, description="what each update adds to the strength")
    every: Count = Field(default=10, description="iterations from one update to the next")
    ceiling: Positive = Field(default=1.0, description="the strength at which growth ends")
    hold: Whole = Field(default=10_000, description="iterations at the ceiling")

    def rise(self, start: float = 0.0) -> int:
        """Iterations from `start` to the ceiling."""
        return strength_rise(self.growth, self.every, self.ceiling, start)

    def strength(self, *, start: float = 0.0, scale: float = 1.0) -> StrengthSchedule:
        return partial(
            stepwise_growth,
            growth=self.growth,
            every=self.every,
            ceiling=self.ceiling,
            hold=self.hold,
            start=start,
            scale=scale,
        )

    def regularise(self, penalty: Penalty, *, start: float = 0.0) -> Train:
        """The training that takes the strength from `start` to the ceiling and holds it there."""
        return self.train(penalty, epochs=self.epochs, iterations=self.rise(start) + self.hold)
