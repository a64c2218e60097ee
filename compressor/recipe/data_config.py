"""The `data` block: labelled images, and the task they are for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from compressor import core
from compressor.data.settings import DataSettings
from compressor.recipe.fields import (
    Number,
    Positive,
    RecipeBlock,
    Share,
    Word,
    auto_or_whole,
    checked_beside,
    given,
    refused,
)

AutoWorkers = Annotated[int | Literal["auto"], *auto_or_whole(0, 256, "a whole number, 0 to 256")]

_FACTORY = re.compile(r".+\.py:[^\W\d]\w*")


class DataConfig(RecipeBlock):
    """Labelled images. Relative paths are looked up in `--data`, or in the current folder without it."""

    source: Word = Field(
        description="parquet | folder | digits (embedded) | torchvision:CIFAR10 | path/to/file.py:factory",
        examples=["parquet", "folder", "digits", "torchvision:CIFAR10"],
    )
    train: Word | None = None
    val: Word | None = None
    mean: tuple[Number, ...] | None = Field(default=None, description="by channel; null = what the model expects")
    std: tuple[Positive, ...] | None = Field(default=None, description="by channel; null = what the model expects")
    augment: core.Augment = Field(
        default="none",
        description="flip; cifar = padded random crop and flip; trivialaugment or randaugment = cifar, then theirs; "
        "imagenet = random resized crop and flip, tested on the centre at 256/224",
    )
    task: Word = Field(
        default="classification",
        description="classification | regression (floats of any shape) | path/to/file.py:factory of a core.Task",
        examples=["classification", "regression"],
    )
    loss: Literal["mse", "l1", "smooth_l1"] | None = Field(default=None, description="of regression; null = mse")
    metric: Literal["rmse", "mae"] | None = Field(default=None, description="of regression; null = rmse")
    holdout: Share | None = Field(
        default=None, description="share of each class's training images never trained on, to choose by; null = none"
    )
    workers: AutoWorkers = Field(
        default="auto", description="processes that decode what stays on disk; 0 = none; auto = one for each processor"
    )

    def to_settings(self) -> DataSettings:
        """The block as the data room takes it."""
        return DataSettings(
            self.source,
            train=self.train,
            val=self.val,
            mean=self.mean,
            std=self.std,
            augment=self.augment,
            task=self.task,
            loss=self.loss,
            metric=self.metric,
            holdout=self.holdout or 0.0,
            workers=None if self.workers == "auto" else self.workers,
        )

    @field_validator("source")
    @classmethod
    def _known(cls, source: str) -> str:
        kinds = ["parquet", "folder", "digits"]
        if source in kinds or _FACTORY.fullmatch(source) or re.fullmatch(r"torchvision:\w+", source):
            return source
        raise refused(f"{', '.join(kinds)}, torchvision:NAME or path/to/file.py:factory", kinds)

    @field_validator("task")
    @classmethod
    def _known_task(cls, task: str) -> str:
        kinds = ["classification", "regression"]
        if task in kinds or _FACTORY.fullmatch(task):
            return task
        raise refused(f"{', '.join(kinds)} or path/to/file.py:factory", kinds)

    @model_validator(mode="wrap")
    @classmethod
    def _fits_together(cls, data: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        return checked_beside(data, handler, "data", cls._clashes(data))

    @classmethod
    def _clashes(cls, data: object) -> Iterator[tuple[str, str]]:
        keys = given(data)
        mean, std = keys.get("mean"), keys.get("std")
        if (mean is None) != (std is None):
            yield ("mean" if std is None else "std"), "mean and std together, or neither"
        if isinstance(mean, (list, tuple)) and isinstance(std, (list, tuple)) and len(mean) != len(std):
            yield "std", f"as many numbers as mean has, {len(mean)}"
        if keys.get("source") == "digits":
            yield from ((key, "no path, digits are embedded") for key in ("train", "val") if key in keys)
        if keys.get("task") != "regression":
            others = f"nothing while data.task is {keys.get('task', 'classification')}"
            yield from ((key, others) for key in ("loss", "metric") if key in keys)
