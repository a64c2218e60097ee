"""The `retrain` block: epochs, optimizer and schedule, with the schedules that would outlive their epochs refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from compressor.recipe.fields import (
    Count,
    NotNegative,
    Number,
    Positive,
    RecipeBlock,
    Truth,
    Whole,
    given,
    refused_keys,
)
from compressor.recipe.optimizer_config import ORIGINAL_LR, SGD, AnyOptimizer
from compressor.recipe.rewinding_schedules import CLR, FT, LRW, SLR
from compressor.recipe.schedule_config import (
    Constant,
    Cosine,
    Halving,
    Multistep,
    OneCycle,
    Polynomial,
    ScheduleConfig,
    StepDecay,
    schedule_key,
)
from compressor.steps.train import Train
from compressor.training.settings import Distillation

# An unnamed one is a cosine.
AnySchedule = Cosine | OneCycle | Polynomial | StepDecay | Multistep | Halving | Constant | FT | LRW | SLR | CLR
SCHEDULES: dict[str, type[ScheduleConfig]] = {kind.model_fields["name"].default: kind for kind in get_args(AnySchedule)}


class DistillConfig(RecipeBlock):
    """Distillation costs a forward pass of the dense model each iteration, and no file."""

    teacher: Literal["dense"] = "dense"
    temperature: Positive = Field(default=4.0, description="softens the answers of both")
    weight: Annotated[Number, Field(ge=0, le=1)] = Field(
        default=0.5, description="share of the dense model's answers; the rest is the labels'"
    )
    features: NotNegative = Field(default=0.0, description="weight of feature maps, where shapes match")

    def to_core(self) -> Distillation:
        return Distillation(self.temperature, self.weight, self.features)


class RetrainConfig(RecipeBlock):
    """What follows surgery. Without data there is no retraining, whatever is written here."""

    epochs: Annotated[Whole, Field(ge=0)] = Field(default=0, description="0 = do not retrain")
    batch_size: Count = 128
    optimizer: Annotated[AnyOptimizer, Field(discriminator="name"), schedule_key("sgd")] = SGD()
    schedule: Annotated[AnySchedule, Field(discriminator="name"), schedule_key("cosine")] = Cosine()
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="auto = bf16 where this machine gains by it; fp16 is for GPUs without bf16"
    )
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    mixup: NotNegative = Field(default=0.0, description="alpha of the Beta distribution images are mixed by; 0 = no")
    cutmix: NotNegative = Field(default=0.0, description="alpha of the Beta distribution of areas; 0 = no")
    distill: DistillConfig | None = Field(default=None, description="learn from the dense model as well; null = no")
    clip: Positive | None = Field(default=None, description="largest norm of all gradients together; null = any")
    ema: Annotated[Number, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="decay of the average of the weights kept in the end, such as 0.999; null = none",
    )
    keep: Literal["last", "best"] = Field(
        default="last", description="best = the epoch that does best on the held-out split; needs data.holdout"
    )
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
    def _ends_in_time(cls, schedule: ScheduleConfig, info: ValidationInfo) -> ScheduleConfig:
        epochs, optimizer = info.data.get("epochs", 0), info.data.get("optimizer")  # absent where themselves at fault
        faults = list(schedule.unfit(epochs, optimizer.lr if optimizer else None)) if epochs else []
        if faults:
            raise refused_keys("schedule", faults)
        return schedule

    def to_core(self) -> Train | None:
        """The training step, or None where none is asked for."""
        if self.epochs == 0:
            return None
        return Train(
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer=self.optimizer.to_core(),
            schedule=self.schedule.to_core(self.epochs, self.optimizer.lr),
            precision=self.precision,
            label_smoothing=self.label_smoothing,
            mixup=self.mixup,
            cutmix=self.cutmix,
            distill=self.distill.to_core() if self.distill else None,
            clip=self.clip,
            ema=self.ema,
            keep=self.keep,
        )
