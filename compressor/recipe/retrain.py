"""The `retrain` block: epochs, optimizer and schedule, with the schedules that would outlive their epochs refused."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from compressor import core, schedules
from compressor.recipe.values import (
    Block,
    Count,
    Factor,
    NotNegative,
    Number,
    Positive,
    Truth,
    Whole,
    refused_keys,
)

# ---------------------------------------------------------------- optimizers


class SGD(Block):
    name: Literal["sgd"] = "sgd"
    lr: Positive = Field(default=0.01, description="base learning rate, what the schedule's factor multiplies")
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.9
    weight_decay: NotNegative = 5e-4
    nesterov: Truth = Field(default=False, description="needs a momentum above 0")

    @field_validator("nesterov")
    @classmethod
    def _has_momentum(cls, nesterov: bool, info: ValidationInfo) -> bool:
        if nesterov and info.data.get("momentum") == 0:
            raise refused_keys("sgd", [("", "false while momentum is 0")])
        return nesterov

    def to_core(self) -> core.Optimizer:
        return core.Optimizer("sgd", self.lr, self.momentum, self.weight_decay, self.nesterov)


class AdamW(Block):
    name: Literal["adamw"] = "adamw"
    lr: Positive = Field(default=1e-3, description="base learning rate, what the schedule's factor multiplies")
    weight_decay: NotNegative = 0.01

    def to_core(self) -> core.Optimizer:
        return core.Optimizer("adamw", self.lr, weight_decay=self.weight_decay)


# ---------------------------------------------------------------- schedules


class Schedule(Block):
    """Lengths are in epochs. `warmup`: a line from 0 to the schedule's own value over the first epochs."""

    name: str
    warmup: NotNegative = Field(default=0.0, description="epochs of linear warm-up from 0, less than retrain.epochs")

    def factor(self, epochs: int) -> core.Schedule:
        """epochs done -> factor on the learning rate, for a training of `epochs`."""
        raise NotImplementedError

    def outlives(self, epochs: int) -> Iterator[tuple[str, str]]:
        """The keys that do not fit into `epochs`, and what would."""
        if self.warmup >= epochs:
            yield "warmup", f"less than retrain.epochs, {epochs}"


class Constant(Schedule):
    name: Literal["constant"] = "constant"

    def factor(self, epochs: int) -> core.Schedule:
        return schedules.constant()


class Step(Schedule):
    name: Literal["step"] = "step"
    size: Positive = Field(description="epochs between two drops")
    gamma: Factor = Field(default=0.1, description="factor of each drop")

    def factor(self, epochs: int) -> core.Schedule:
        return schedules.step(self.size, self.gamma)

    def outlives(self, epochs: int) -> Iterator[tuple[str, str]]:
        yield from super().outlives(epochs)
        if self.size > epochs:
            yield "size", f"at most retrain.epochs, {epochs}: the schedule outlives its epochs"


class Multistep(Schedule):
    name: Literal["multistep"] = "multistep"
    milestones: Annotated[tuple[Positive, ...], Field(min_length=1)] = Field(description="epochs of the drops")
    gamma: Factor = Field(default=0.1, description="factor of each drop")

    @field_validator("milestones")
    @classmethod
    def _increase(cls, milestones: tuple[float, ...]) -> tuple[float, ...]:
        if any(later <= earlier for earlier, later in pairwise(milestones)):
            raise refused_keys("milestones", [("", "epochs in increasing order")])
        return milestones

    def factor(self, epochs: int) -> core.Schedule:
        return schedules.multistep(self.milestones, self.gamma)

    def outlives(self, epochs: int) -> Iterator[tuple[str, str]]:
        yield from super().outlives(epochs)
        if self.milestones[-1] >= epochs:
            yield "milestones", f"all below retrain.epochs, {epochs}: the schedule outlives its epochs"


class Cosine(Schedule):
    name: Literal["cosine"] = "cosine"
    end: Annotated[Number, Field(ge=0, le=1)] = Field(default=0.0, description="share of the rate left at the end")

    def factor(self, epochs: int) -> core.Schedule:
        return schedules.cosine(epochs, self.end)


class OneCycle(Schedule):
    name: Literal["onecycle"] = "onecycle"
    rise: Annotated[Number, Field(gt=0, lt=1)] = Field(default=0.3, description="share of the epochs spent rising")
    start: Factor = Field(default=0.04, description="share of the rate at the start")
    end: Annotated[Number, Field(ge=0, le=1)] = Field(default=1e-4, description="share of the rate left at the end")

    def factor(self, epochs: int) -> core.Schedule:
        return schedules.onecycle(epochs, self.rise, self.start, self.end)


OPTIMIZERS: dict[str, type[Block]] = {"sgd": SGD, "adamw": AdamW}
SCHEDULES: dict[str, type[Block]] = {
    "step": Step,
    "multistep": Multistep,
    "cosine": Cosine,
    "onecycle": OneCycle,
    "constant": Constant,
}


def _named(default: str) -> BeforeValidator:
    """A block without a name is the default kind, so that `--set retrain.optimizer.lr=0.1` alone means something."""

    def fill(value: Any) -> Any:
        return {"name": default, **value} if isinstance(value, dict) else value

    return BeforeValidator(fill)


class Retrain(Block):
    """What follows surgery. Without data there is no retraining, whatever is written here."""

    epochs: Annotated[Whole, Field(ge=0)] = Field(default=0, description="0 = do not retrain")
    batch_size: Count = 128
    optimizer: Annotated[SGD | AdamW, Field(discriminator="name"), _named("sgd")] = SGD()
    schedule: Annotated[
        Step | Multistep | Cosine | OneCycle | Constant, Field(discriminator="name"), _named("cosine")
    ] = Cosine()
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto = bf16 where this machine gains by it"
    )
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    recalibrate: Truth = Field(default=True, description="estimate BatchNorm statistics anew after surgery")

    @field_validator("schedule")
    @classmethod
    def _ends_in_time(cls, schedule: Schedule, info: ValidationInfo) -> Schedule:
        epochs = info.data.get("epochs", 0)  # absent where it is itself at fault
        faults = list(schedule.outlives(epochs)) if epochs else []
        if faults:
            raise refused_keys("schedule", faults)
        return schedule

    def to_core(self) -> core.Train | None:
        """The training step, or None where none is asked for."""
        if self.epochs == 0:
            return None
        factor = self.schedule.factor(self.epochs)
        return core.Train(
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer=self.optimizer.to_core(),
            schedule=schedules.warmup(factor, self.schedule.warmup) if self.schedule.warmup else factor,
            precision=self.precision,
            label_smoothing=self.label_smoothing,
        )
