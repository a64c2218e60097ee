"""The `data` block: labelled images, and the task that they are for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from compressor import core
from compressor.data.data_settings import AUTO, DataSettings
from compressor.field_types import Number, Positive, Word, refused
from compressor.recipe.block import Conflict, RecipeBlock
from compressor.recipe.fields import Share, auto_or_integer

AutoWorkers = Annotated[int | Literal["auto"], *auto_or_integer(0, 256, "a whole number, 0 to 256")]

_FACTORY = re.compile(r".+\.py:[^\W\d]\w*")


class DataConfig(RecipeBlock):
    """Labelled images. Relative paths are relative to `--data`, or to the current folder without it."""

    source: Word = Field(
        default=AUTO,
        description="auto (what --data is) | parquet | folder | digits (embedded) | torchvision:CIFAR10 | "
        "path/to/file.py:factory",
        examples=["auto", "parquet", "folder", "digits", "torchvision:CIFAR10"],
    )
    train: Word | None = None
    val: Word | None = None
    mean: tuple[Number, ...] | None = Field(
        default=None, description="one number for each channel; null = what the model expects"
    )
    std: tuple[Positive, ...] | None = Field(
        default=None, description="one number for each channel; null = what the model expects"
    )
    augment: core.Augment = Field(
        default="none",
        description="flip; cifar = padded random crop and flip; trivialaugment or randaugment = cifar, then that "
        "policy; imagenet = random resized crop and flip, tested on the centre crop at 256/224",
    )
    task: Word = Field(
        default="classification",
        description="classification | regression (floats of any shape; outputs are values, also without labels) | "
        "path/to/file.py:factory of a core.Task",
        examples=["classification", "regression"],
    )
    loss: Literal["mse", "l1", "smooth_l1"] | None = Field(default=None, description="loss of regression; null = mse")
    metric: Literal["rmse", "mae"] | None = Field(default=None, description="metric of regression; null = rmse")
    holdout: Share | None = Field(
        default=None, description="share of each class's training images that are held out for validation; null = none"
    )
    workers: AutoWorkers = Field(
        default="auto", description="processes that decode images from disk; 0 = none; auto = one for each processor"
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
    def _check_source(cls, source: str) -> str:
        kinds = [AUTO, "parquet", "folder", "digits"]
        if source in kinds or _FACTORY.fullmatch(source) or re.fullmatch(r"torchvision:\w+", source):
            return source
        raise refused(f"{', '.join(kinds)}, torchvision:NAME or path/to/file.py:factory", kinds)

    @field_validator("task")
    @classmethod
    def _check_task(cls, task: str) -> str:
        kinds = ["classification", "regression"]
        if task in kinds or _FACTORY.fullmatch(task):
            return task
        raise refused(f"{', '.join(kinds)} or path/to/file.py:factory", kinds)

    @classmethod
    def conflicts(cls, keys: Mapping[str, Any]) -> Iterator[Conflict]:
        mean, std = keys.get("mean"), keys.get("std")
        if (mean is None) != (std is None):
            yield ("mean" if std is None else "std"), "mean and std together, or neither"
        if isinstance(mean, (list, tuple)) and isinstance(std, (list, tuple)) and len(mean) != len(std):
            yield "std", f"as many numbers as mean has, {len(mean)}"
        if keys.get("source", AUTO) == AUTO:
            yield from ((key, "no path while data.source is auto") for key in ("train", "val") if keys.get(key))
        if keys.get("source") == "digits":
            yield from ((key, "no path, digits are embedded") for key in ("train", "val") if key in keys)
        if keys.get("task") != "regression":
            allowed = f"nothing while data.task is {keys.get('task', 'classification')}"
            yield from ((key, allowed) for key in ("loss", "metric") if key in keys)
