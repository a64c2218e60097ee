"""The data of a run in the form that its model takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from compressor.core import Data, LoadedModel, ModelInput
from compressor.data.array_files import ARRAY_FILES, array_shapes, first_samples
from compressor.data.data_settings import DataSettings
from compressor.data.image_data import ImageData
from compressor.data.normalize import Normalize
from compressor.data.open_data import open_data
from compressor.data.samples import ImageInputs, Samples
from compressor.data.tasks import open_task


def open_data_for(
    model: LoadedModel, settings: DataSettings, base: Path | None, *, task_base: Path, num_classes: int | None
) -> Data:
    """Open both splits in the shape and normalization that the model takes.

    Args:
        model: The model.
        settings: From `locate_data` in locate.py.
        base: From `locate_data`.
        task_base: The folder that a user's task file is relative to.
        num_classes: The model's number of classes; None = any number.

    Returns:
        The data.

    Raises:
        DataError: The data cannot be trained or measured on.
    """
    task = open_task(settings.task, task_base, loss=settings.loss, metric=settings.metric)
    settings = replace(settings, mean=settings.mean or model.mean, std=settings.std or model.std)
    return open_data(settings, base, model.spec, num_classes=num_classes, task=task)


def estimated_normalization(model: LoadedModel, settings: DataSettings, data: Data) -> Normalize | None:
    """Return the normalization of images by their own statistics.

    Args:
        model: The model.
        settings: From `locate_data` in locate.py.
        data: What `open_data_for` returned.

    Returns:
        The normalization; None where the settings or the model say it, and for data that are not normalized.
    """
    if (settings.mean or model.mean) and (settings.std or model.std):
        return None
    if isinstance(data, ImageData):
        normalize = Normalize(data.mean, data.std)
    elif isinstance(data, Samples) and isinstance(data.source, ImageInputs):
        normalize = data.source.normalize
    else:
        return None
    return normalize if any(normalize.mean) else None  # floats are taken as they are


def samples_shown(settings: DataSettings, base: Path | None) -> Mapping[str, Tensor]:
    """Read two samples of a file of arrays: they show what a network takes that does not say it.

    Args:
        settings: From `locate_data` in locate.py.
        base: From `locate_data`.

    Returns:
        Name -> (2, ...); nothing where the samples are not in such a file.

    Raises:
        DataError: The file cannot be read.
    """
    path = _array_file(settings, base)
    return {} if path is None else first_samples(path, 2)


def with_sample_sizes(model: LoadedModel, settings: DataSettings, base: Path | None) -> LoadedModel:
    """Give inputs whose sizes were guessed those of the samples, where these are in a file of arrays.

    Args:
        model: The model.
        settings: From `locate_data` in locate.py.
        base: From `locate_data`.

    Returns:
        The model; itself if nothing was guessed, or the samples are not in such a file.

    Raises:
        DataError: The file cannot be read, or its arrays are not those of the inputs.
    """
    path = _array_file(settings, base)
    if not model.guessed_sizes or path is None:
        return model
    inputs = model.spec.inputs
    shapes = array_shapes(path, inputs)
    pairs = zip(inputs, shapes, strict=True)
    sized = tuple(_sized(one, shape, model.guessed_sizes.get(one.name, ())) for one, shape in pairs)
    return model if sized == inputs else replace(model, spec=replace(model.spec, inputs=sized))


def _array_file(settings: DataSettings, base: Path | None) -> Path | None:
    path = (base or Path()) / (settings.train or "")
    return path if settings.source == "samples" and path.suffix in ARRAY_FILES else None


def _sized(given: ModelInput, shape: tuple[int, ...], guessed: tuple[int, ...]) -> ModelInput:
    """The input with these sizes, if they differ in no dimension but guessed ones."""
    if len(shape) != len(given.shape):
        return given
    known = [dim for dim in range(len(shape)) if dim not in guessed]
    return replace(given, shape=shape) if all(shape[dim] == given.shape[dim] for dim in known) else given
