"""The `retrain` block: epochs, optimizer and schedule. A schedule that is longer than the epochs is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, StrictBool, ValidationInfo, field_validator, model_validator

from compressor.field_types import (
    ClosedFraction,
    Count,
    FractionBelowOne,
    NonNegative,
    NonNegativeCount,
    OpenFraction,
    Positive,
)
from compressor.recipe.block import Conflict, RecipeBlock, conflict_error, written_keys
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
    default_name,
)
from compressor.steps.train import Train
from compressor.training.train_settings import Distillation

AnySchedule = Cosine | OneCycle | Polynomial | StepDecay | Multistep | Halving | Constant | FT | LRW | SLR | CLR
SCHEDULES: dict[str, type[ScheduleConfig]] = {kind.model_fields["name"].default: kind for kind in get_args(AnySchedule)}


class DistillConfig(RecipeBlock):
    """Distillation from the dense model, which costs one of its forward passes in each iteration."""

    teacher: Literal["dense"] = "dense"
    temperature: Positive = Field(default=4.0, description="temperature of the softmax of both models")
    weight: ClosedFraction = Field(
        default=0.5, description="weight of the dense model's outputs; the weight of the labels is 1 minus it"
    )
    features: NonNegative = Field(default=0.0, description="weight of feature maps whose shapes match")
    labels: StrictBool = Field(
        default=True, description="false = learn from the dense model's outputs alone, even where labels exist"
    )

    @classmethod
    def conflicts(cls, keys: Mapping[str, object]) -> Iterator[Conflict]:
        default = cls.model_fields["weight"].default
        if keys.get("labels") is False and keys.get("weight", default) != default:
            yield "weight", "nothing while retrain.distill.labels is false: only the dense model's outputs are learned"

    def settings(self) -> Distillation:
        return Distillation(self.temperature, self.weight, self.features, self.labels)


class RetrainConfig(RecipeBlock):
    """Retraining after the pruning. Without data there is none, whatever is written here."""

    epochs: NonNegativeCount = Field(default=0, description="0 = do not retrain")
    batch_size: Count = 128
    optimizer: Annotated[AnyOptimizer, Field(discriminator="name"), default_name("sgd")] = SGD()
    schedule: Annotated[AnySchedule, Field(discriminator="name"), default_name("cosine")] = Cosine()
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="auto = bf16 if it is faster on this machine; fp16 is for GPUs without bf16"
    )
    label_smoothing: FractionBelowOne = 0.0
    mixup: NonNegative = Field(default=0.0, description="alpha of the Beta distribution of mixup; 0 = no mixup")
    cutmix: NonNegative = Field(default=0.0, description="alpha of the Beta distribution of CutMix; 0 = no CutMix")
    distill: DistillConfig | None = Field(default=None, description="distillation from the dense model; null = none")
    clip: Positive | None = Field(default=None, description="largest norm of the gradient; null = no clipping")
    ema: OpenFraction | None = Field(
        default=None, description="decay of the moving average of the weights, which is the result; null = no average"
    )
    keep: Literal["last", "best"] = Field(
        default="last", description="best = the epoch with the best metric on the held-out split; requires data.holdout"
    )
    recalibrate: StrictBool = Field(default=True, description="estimate BatchNorm statistics anew after pruning")

    @classmethod
    def conflicts(cls, keys: Mapping[str, object]) -> Iterator[Conflict]:
        if written_keys(keys.get("distill")).get("labels") is False:
            of_labels = ("label_smoothing", "mixup", "cutmix")
            yield from ((key, "0 while retrain.distill.labels is false") for key in of_labels if keys.get(key))

    @model_validator(mode="before")
    @classmethod
    def _original_rate(cls, data: Any) -> Any:
        """With a schedule that repeats a part of the original training, the default rate is that of this training."""
        kind = SCHEDULES.get(str(written_keys(written_keys(data).get("schedule")).get("name")))
        if kind is None or not kind.of_original:
            return data
        optimizer = data.get("optimizer", {})
        if not isinstance(optimizer, dict) or "lr" in optimizer or optimizer.get("name", "sgd") != "sgd":
            return data
        return {**data, "optimizer": {**optimizer, "lr": ORIGINAL_LR}}

    @field_validator("schedule")
    @classmethod
    def _check_length(cls, schedule: ScheduleConfig, info: ValidationInfo) -> ScheduleConfig:
        epochs, optimizer = info.data.get("epochs", 0), info.data.get("optimizer")  # absent if they are at fault
        misfits = list(schedule.misfits(epochs, optimizer.lr if optimizer else None)) if epochs else []
        if misfits:
            raise conflict_error("schedule", misfits)
        return schedule

    def step(self) -> Train | None:
        """Return the training step, or None if there is no retraining."""
        if self.epochs == 0:
            return None
        return Train(
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer=self.optimizer.settings(),
            schedule=self.schedule.schedule(self.epochs, self.optimizer.lr),
            precision=self.precision,
            label_smoothing=self.label_smoothing,
            mixup=self.mixup,
            cutmix=self.cutmix,
            distill=self.distill.settings() if self.distill else None,
            clip=self.clip,
            ema=self.ema,
            keep=self.keep,
        )
