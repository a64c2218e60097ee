"""The `optimizer` block: SGD, Adam and AdamW."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator

from compressor.recipe.fields import NotNegative, Number, Positive, RecipeBlock, Truth, refused_keys
from compressor.training.settings import OptimizerSettings

ORIGINAL_LR = 0.1  # of SGD where the dense model was trained, in nearly all of the literature


class SGD(RecipeBlock):
    name: Literal["sgd"] = "sgd"
    lr: Positive = Field(
        default=0.01,
        description="base learning rate, what the schedule's factor multiplies; beside ft, lrw, slr and clr it is "
        f"the base rate of the ORIGINAL training, and {ORIGINAL_LR} where it is not written",
    )
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.9
    weight_decay: NotNegative = 5e-4
    nesterov: Truth = Field(default=False, description="needs a momentum above 0")
    decay_all: Truth = Field(default=True, description="false = no decay of biases and normalisations")

    @field_validator("nesterov")
    @classmethod
    def _has_momentum(cls, nesterov: bool, info: ValidationInfo) -> bool:
        if nesterov and info.data.get("momentum") == 0:
            raise refused_keys("sgd", [("", "false while momentum is 0")])
        return nesterov

    def to_core(self) -> OptimizerSettings:
        return OptimizerSettings("sgd", self.lr, self.momentum, self.weight_decay, self.nesterov, self.decay_all)


class Adam(RecipeBlock):
    name: Literal["adam"] = "adam"
    lr: Positive = Field(default=1e-3, description="base learning rate, what the schedule's factor multiplies")
    weight_decay: NotNegative = Field(default=0.0, description="added to the gradient, as L2 is")
    decay_all: Truth = Field(default=False, description="false = no decay of biases and normalisations")

    def to_core(self) -> OptimizerSettings:
        return OptimizerSettings("adam", self.lr, weight_decay=self.weight_decay, decay_all=self.decay_all)


class AdamW(RecipeBlock):
    name: Literal["adamw"] = "adamw"
    lr: Positive = Field(default=1e-3, description="base learning rate, what the schedule's factor multiplies")
    weight_decay: NotNegative = 0.01
    decay_all: Truth = Field(default=False, description="false = no decay of biases and normalisations")

    def to_core(self) -> OptimizerSettings:
        return OptimizerSettings("adamw", self.lr, weight_decay=self.weight_decay, decay_all=self.decay_all)


AnyOptimizer = SGD | Adam | AdamW
OPTIMIZERS: dict[str, type[RecipeBlock]] = {kind.model_fields["name"].default: kind for kind in get_args(AnyOptimizer)}
