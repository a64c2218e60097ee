"""The `optimizer` block: SGD, Adam and AdamW."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, get_args

from pydantic import Field, StrictBool

from compressor.field_types import FractionBelowOne, NonNegative, Positive
from compressor.recipe.block import Conflict, RecipeBlock
from compressor.training.train_settings import OptimizerSettings

ORIGINAL_LR = 0.1
"""The learning rate of SGD with which nearly all dense models in the literature were trained."""


class SGD(RecipeBlock):
    name: Literal["sgd"] = "sgd"
    lr: Positive = Field(
        default=0.01,
        description="base learning rate, which the schedule multiplies; with ft, lrw, slr and clr it is the base "
        f"rate of the ORIGINAL training, {ORIGINAL_LR} if it is not given",
    )
    momentum: FractionBelowOne = 0.9
    weight_decay: NonNegative = 5e-4
    nesterov: StrictBool = Field(default=False, description="Nesterov momentum; requires a momentum above 0")
    decay_all: StrictBool = Field(default=True, description="false = no decay of biases and normalizations")

    @classmethod
    def conflicts(cls, keys: Mapping[str, object]) -> Iterator[Conflict]:
        if keys.get("nesterov") is True and keys.get("momentum") == 0:
            yield "nesterov", "false while momentum is 0"

    def settings(self) -> OptimizerSettings:
        return OptimizerSettings("sgd", self.lr, self.momentum, self.weight_decay, self.nesterov, self.decay_all)


class Adam(RecipeBlock):
    name: Literal["adam"] = "adam"
    lr: Positive = Field(default=1e-3, description="base learning rate, which the schedule multiplies")
    weight_decay: NonNegative = Field(default=0.0, description="L2 penalty, added to the gradient")
    decay_all: StrictBool = Field(default=False, description="false = no decay of biases and normalizations")

    def settings(self) -> OptimizerSettings:
        return OptimizerSettings("adam", self.lr, weight_decay=self.weight_decay, decay_all=self.decay_all)


class AdamW(RecipeBlock):
    name: Literal["adamw"] = "adamw"
    lr: Positive = Field(default=1e-3, description="base learning rate, which the schedule multiplies")
    weight_decay: NonNegative = 0.01
    decay_all: StrictBool = Field(default=False, description="false = no decay of biases and normalizations")

    def settings(self) -> OptimizerSettings:
        return OptimizerSettings("adamw", self.lr, weight_decay=self.weight_decay, decay_all=self.decay_all)


AnyOptimizer = SGD | Adam | AdamW
OPTIMIZERS: dict[str, type[RecipeBlock]] = {kind.model_fields["name"].default: kind for kind in get_args(AnyOptimizer)}
