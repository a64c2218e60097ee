"""The `retrain` block: epochs, optimizer and schedule, with the schedules that would outlive their epochs refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from compressor import core
from compressor.recipe.original import CLR, FT, LRW, SLR
from compressor.recipe.schedules import (
    Constant,
    Cosine,
    Halving,
    Multistep,
    OneCycle,
    Polynomial,
    Schedule,
    Step,
    named,
)
from compressor.recipe.values import (
    Block,
    Count,
    NotNegative,
    Number,
    Positive,
    Truth,
    Whole,
    given,
    refused_keys,
)

ORIGINAL_LR = 0.1  # of SGD where the dense model was trained, in nearly all of the literature

# ---------------------------------------------------------------- optimizers


class SGD(Block):
    name: Literal["sgd"] = "sgd"
    lr: Positive = Field(
        default=0.01,
        description="base learning rate, what the schedule's factor multiplies; beside ft, lrw, slr and clr it is "
        f"the base rate of the ORIGINAL training, and {ORIGINAL_LR} where it is not written",
    )
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


OPTIMIZERS: dict[str, type[Block]] = {"sgd": SGD, "adamw": AdamW}

# An unnamed one is a cosine.
AnySchedule = Cosine | OneCycle | Polynomial | Step | Multistep | Halving | Constant | FT | LRW | SLR | CLR
SCHEDULES: dict[str, type[Schedule]] = {kind.model_fields["name"].default: kind for kind in get_args(AnySchedule)}


class Retrain(Block):
    """What follows surgery. Without data there is no retraining, whatever is written here."""

    epochs: Annotated[Whole, Field(ge=0)] = Field(default=0, description="0 = do not retrain")
    batch_size: Count = 128
    optimizer: Annotated[SGD | AdamW, Field(discriminator="name"), named("sgd")] = SGD()
    schedule: Annotated[AnySchedule, Field(discriminator="name"), named("cosine")] = Cosine()
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto = bf16 where this machine gains by it"
    )
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    recalibrate: Truth = Field(default=True, description="estimate BatchNorm statistics anew after surgery")

    @model_validator(mode="before")
    @classmethod
    def _base_rate(cls, data: Any) -> Any:
        """Beside a schedule that repeats a part of the original training, a rate not written is that training's."""
        kind = SCHEDULES.get(str(given(given(data).get("schedule")).get("name")))
        if kind is None or not kind.of_original:
            return data
        optimizer = data.get("optimizer", {})
        if not isinstance(optimizer, dict) or "lr" in optimizer or optimizer.get("name", "sgd") != "sgd":
            return data
        return {**data, "optimizer": {**optimizer, "lr": ORIGINAL_LR}}

    @field_validator("schedule")
    @classmethod
    def _ends_in_time(cls, schedule: Schedule, info: ValidationInfo) -> Schedule:
        epochs, optimizer = info.data.get("epochs", 0), info.data.get("optimizer")  # absent where themselves at fault
        faults = list(schedule.unfit(epochs, optimizer.lr if optimizer else None)) if epochs else []
        if faults:
            raise refused_keys("schedule", faults)
        return schedule

    def to_core(self) -> core.Train | None:
        """The training step, or None where none is asked for."""
        if self.epochs == 0:
            return None
        return core.Train(
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer=self.optimizer.to_core(),
            schedule=self.schedule.to_core(self.epochs, self.optimizer.lr),
            precision=self.precision,
            label_smoothing=self.label_smoothing,
        )
