"""Open samples without labels: images in a folder or Parquet file, arrays in a file, inputs from a factory, noise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from compressor.core import ModelInput
from compressor.data.array_files import ARRAY_FILES, read_arrays
from compressor.data.decode import check_channels, decode
from compressor.data.normalize import Normalize, channel_statistics
from compressor.data.parquet import RowGroups
from compressor.data.samples import (
    ImageInputs,
    InputSource,
    Samples,
    TensorInputs,
    check_finite_samples,
    check_samples,
    to_inputs,
)
from compressor.data.splits import EncodedImages, ImageSource, InMemorySplit, Shape, fits_in_memory
from compressor.data.streaming import StreamingSplit
from compressor.data.user_dataset import RETURN_SPLITS
from compressor.errors import DataError
from compressor.random_samples import random_samples
from compressor.user_code import user_items

NOISE_SAMPLES = 256
MAX_FACTORY_SAMPLES = 100_000  # because a factory may yield samples without end


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image becomes an input: it is scaled, its centre is cut, then (pixel / 255 - mean) / std."""

    mean: tuple[float, ...] | None = None  # None = of the samples
    std: tuple[float, ...] | None = None


def find_image_files(folder: Path) -> list[Path]:
    """List all images in a folder and its subfolders, in alphabetical order. Hidden files and folders are skipped."""
    extensions = set(Image.registered_extensions())
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in extensions
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def open_samples(
    path: Path, inputs: Sequence[ModelInput], image: Shape | None, preprocessing: Preprocessing, workers: int = 0
) -> Samples:
    """Open a folder of images, a Parquet file or folder without labels, or a file of arrays.

    Args:
        path: The folder or file.
        inputs: The inputs of the model.
        image: (C, H, W) of the one image that the model takes; None for a model with other inputs.
        preprocessing: Of images and of uint8 arrays.
        workers: Processes that decode images that do not fit in memory.

    Returns:
        The samples.

    Raises:
        DataError: The samples cannot be read, or do not fit the model.
    """
    if path.suffix in ARRAY_FILES:
        source = _arrays(path, inputs, image, preprocessing)
    else:
        if image is None:
            takes = " and ".join("x".join(map(str, expected.shape)) for expected in inputs)
            problem = f"they are images, but the model takes {takes}"
            hint = f"give {', '.join(ARRAY_FILES)} or file.py:factory"
            raise DataError("data/no-picture-input", str(path), problem, hint)
        check_channels(image)
        source = _pictures(_encoded(path), image, preprocessing, workers)
    return check_samples(Samples(str(path), source), inputs)


def samples_from_object(
    value: Any, name: str, inputs: Sequence[ModelInput], image: Shape | None, preprocessing: Preprocessing
) -> Samples:
    """Open the samples that a user's factory returned.

    Args:
        value: Tensors (N, ...) by input, or an iterable of samples or batches; each a tensor, a sequence of tensors or
            a mapping by input name. uint8 images (C, H, W) are normalized, other tensors are used unchanged.
        name: Name of the factory, for messages.
        inputs: The inputs of the model.
        image: (C, H, W) of the one image that the model takes; None for a model with other inputs.
        preprocessing: Of uint8 images.

    Returns:
        The samples, in memory.

    Raises:
        DataError: The user's code raises an error, or the samples do not fit the model.
    """
    items = user_items(_items(value), DataError, "data/user-code-raised", name)
    try:
        tensors = to_inputs(value, inputs) if _is_stacked(value) else _collected(items, inputs)
    except (TypeError, ValueError) as error:  # of our own checks
        hint = f"give {', '.join(expected.name for expected in inputs)} alone"
        hint += f"; with labels, {RETURN_SPLITS}" if image is not None else ""
        raise DataError("data/factory", name, str(error), hint) from error
    return check_samples(Samples(name, _tensors(tensors, "item", name, inputs, image, preprocessing)), inputs)


def noise_samples(inputs: Sequence[ModelInput], seed: int, count: int = NOISE_SAMPLES) -> Samples:
    """Draw noise, see `random_samples`.

    Args:
        inputs: The inputs of the model.
        seed: Seed of the noise.
        count: The number of samples.

    Returns:
        The samples.
    """
    tensors = random_samples(inputs, count, torch.Generator().manual_seed(seed))
    batch_dims = tuple(expected.batch_dim for expected in inputs)
    names = [f"noise {index}" for index in range(count)]
    return Samples(f"noise:{seed}", TensorInputs(tensors, names, batch_dims))


def _encoded(path: Path) -> EncodedImages:
    files = sorted(path.parent.glob(path.name) if path.suffix == ".parquet" else path.glob("*.parquet"))
    if files:
        groups = RowGroups(files)
        return EncodedImages(str(path), groups, [f"{path.name} row {row}" for row in range(len(groups))], None)
    pictures = find_image_files(path)
    return EncodedImages(str(path), pictures, [str(picture.relative_to(path)) for picture in pictures], None)


def _pictures(encoded: EncodedImages, image: Shape, preprocessing: Preprocessing, workers: int) -> InputSource:
    split: ImageSource
    if fits_in_memory(len(encoded.pictures), image):
        split = decode(encoded, image)
    else:
        split = StreamingSplit(encoded, image, workers=workers)
    return ImageInputs(split, _normalize(split, image, preprocessing))


def _normalize(split: ImageSource, image: Shape, preprocessing: Preprocessing) -> Normalize:
    if preprocessing.mean is not None and preprocessing.std is not None:
        return Normalize(preprocessing.mean, preprocessing.std)
    return Normalize(*channel_statistics(split, image[0]))


def _arrays(path: Path, inputs: Sequence[ModelInput], image: Shape | None, preprocessing: Preprocessing) -> InputSource:
    return _tensors(read_arrays(path, inputs), "row", str(path), inputs, image, preprocessing)


def _tensors(
    tensors: tuple[Tensor, ...],
    unit: str,
    where: str,
    inputs: Sequence[ModelInput],
    image: Shape | None,
    preprocessing: Preprocessing,
) -> InputSource:
    """Keep inputs in memory. uint8 images (N, C, H, W) or (N, H, W, C) are normalized like images of files."""
    by_row = [tensor for tensor, like in zip(tensors, inputs, strict=True) if like.batch_dim is not None]
    lengths = sorted({len(tensor) if tensor.ndim else 0 for tensor in by_row})
    if len(lengths) != 1:
        problem = f"the arrays have {' and '.join(map(str, lengths))} samples"
        raise DataError("data/array-lengths", where, problem, "give the same number of samples for every input")
    names = [f"{unit} {row}" for row in range(lengths[0])]
    first = tensors[0]
    if image is not None and first.dtype == torch.uint8 and first.ndim == 4:
        if tuple(first.shape[1:]) != image and (first.shape[3], *first.shape[1:3]) == image:
            first = first.permute(0, 3, 1, 2).contiguous()
        split = InMemorySplit(where, first, None, names)
        return ImageInputs(split, _normalize(split, image, preprocessing))
    tensors = tuple(tensor.float() if tensor.dtype in (torch.float16, torch.float64) else tensor for tensor in tensors)
    pairs = list(zip(tensors, inputs, strict=True))
    tensors = tuple(
        tensor if like.batch_dim is not None else _only_value(tensor, like, where) for tensor, like in pairs
    )
    check_finite_samples(by_row, names, where)
    return TensorInputs(tensors, names, tuple(like.batch_dim for like in inputs))


def _only_value(tensor: Tensor, like: ModelInput, where: str) -> Tensor:
    """The value of an input without a batch dimension, which all samples share; equal rows are one value."""
    if tuple(tensor.shape) == like.shape or tuple(tensor.shape[1:]) != like.shape:
        return tensor
    if bool((tensor != tensor[:1]).any()):
        problem = "its rows differ, but the model takes one value for all samples of a batch"
        raise DataError("data/shared-input", f"{where}: {like.name}", problem, "give one value")
    return tensor[0]


def _collected(items: Iterable[Any], inputs: Sequence[ModelInput]) -> tuple[Tensor, ...]:
    """Stack the samples or batches of an iterable. An item in the shape of the first input with a batch is a sample."""
    columns: list[list[Tensor]] = [[] for _ in inputs]
    first = next((index for index, like in enumerate(inputs) if like.batch_dim is not None), 0)
    count = 0
    for item in items:
        tensors = to_inputs(item, inputs)
        single = tensors[first].ndim == len(inputs[first].shape)
        for column, tensor, like in zip(columns, tensors, inputs, strict=True):
            if tensor.ndim == 0 and like.shape:
                raise ValueError(f"what is given for {like.name} is a single number")
            column.append(tensor[None] if single or like.batch_dim is None else tensor)
        count += len(columns[first][-1])
        if count >= MAX_FACTORY_SAMPLES:
            break
    if not count:
        raise ValueError("it yields no samples")
    for column, like in zip(columns, inputs, strict=True):
        shapes = {tuple(tensor.shape[1:]): None for tensor in column}
        if len(shapes) > 1:
            raise ValueError(f"its samples of {like.name} differ in shape ({' and '.join(map(str, list(shapes)[:2]))})")
    return tuple(map(partial(torch.cat, dim=0), columns))


def _items(value: Any) -> Iterator[Any]:
    """Yield the items of a Dataset, which may not raise IndexError at its end, or of another iterable."""
    if hasattr(value, "__getitem__") and hasattr(value, "__len__") and not isinstance(value, tuple | list):
        yield from (value[index] for index in range(len(value)))
    else:
        yield from value


def _is_stacked(value: object) -> bool:
    """Whether all samples are stacked already: a tensor (N, ...), or a tuple or mapping of them and of numbers."""
    parts = list(value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else [value])
    are_values = all(isinstance(part, Tensor | int | float) for part in parts)
    return are_values and any(isinstance(part, Tensor) for part in parts)
