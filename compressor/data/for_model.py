"""The data of a run: where they are, and both splits in the form that the model takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from compressor.core import Data, LoadedModel
from compressor.data.locate import check_paths, infer_source, is_source
from compressor.data.open_data import open_data
from compressor.data.settings import DataSettings
from compressor.data.tasks import open_task


def locate_data(settings: DataSettings | None, path: str | None) -> tuple[DataSettings, Path | None] | None:
    """Find the data of a run without reading them.

    Args:
        settings: The recipe's `data` block.
        path: The option `--data`: a source by itself, or the folder in which the recipe's source lies.

    Returns:
        Settings with the source and its paths, and the folder they are relative to; None where no data are named.

    Raises:
        DataError: There is nothing at that place.
    """
    base = None
    if settings is not None and (path is None or (settings.has_own_paths and not is_source(path))):
        base = Path(path) if path else None
    elif path is not None:
        source = infer_source(path)
        settings = replace(
            settings or DataSettings(source["source"]),
            source=source["source"],
            train=source.get("train"),
            val=source.get("val"),
        )
    if settings is None:
        return None
    check_paths(settings.source, train=settings.train, val=settings.val, base=base)
    return settings, base


def open_data_for(
    model: LoadedModel, settings: DataSettings, base: Path | None, *, task_base: Path, num_classes: int | None
) -> Data:
    """Open both splits in the shape and normalisation that the model takes.

    Args:
        model: The model.
        settings: From `locate_data`.
        base: From `locate_data`.
        task_base: The folder that a user's task file is relative to.
        num_classes: The model's number of classes; None = any number.

    Returns:
        The data.

    Raises:
        DataError: The data cannot be trained or measured on.
    """
    return open_data(
        settings.source,
        train=settings.train,
        val=settings.val,
        base=base,
        input=model.spec.image,
        inputs=model.spec.inputs,
        num_classes=num_classes,
        mean=settings.mean or model.mean,
        std=settings.std or model.std,
        augment=settings.augment,
        task=open_task(settings.task, task_base, loss=settings.loss, metric=settings.metric),
        holdout=settings.holdout,
        workers=settings.workers,
    )
