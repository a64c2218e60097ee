"""Decode images of any kind to uint8 tensors in the shape that the model takes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from compressor.bench.runner.system_info import usable_cpu_count
from compressor.data.splits import EncodedImage, EncodedImages, InMemorySplit, Shape
from compressor.errors import DataError

CHUNK = 256  # images per task of a thread
SMALL = 16 * 2**10  # bytes; threads do not pay for smaller files
MODES = {1: "L", 3: "RGB"}  # channels -> Pillow's name
BILINEAR = Image.Resampling.BILINEAR  # antialiased


def decode(encoded: EncodedImages, input: Shape, zoom: float = 1.0) -> InMemorySplit:
    """Decode every image of a split.

    Args:
        encoded: The split.
        input: (C, H, W) that the model takes.
        zoom: As for `resize_crop`.

    Returns:
        The split with images as tensors.

    Raises:
        DataError: Names the images that cannot be read.
    """
    count = len(encoded.pictures)
    pixels = np.empty((count, *input), np.uint8)

    def fill(start: int) -> list[tuple[int, str]]:
        unreadable = []
        for index in range(start, min(start + CHUNK, count)):
            try:
                pixels[index] = _fitted(encoded.pictures[index], input, zoom)
            except Exception as error:  # decoders of damaged files may raise anything
                unreadable.append((index, decode_error(error)))
        return unreadable

    with quiet_decoder(), ThreadPoolExecutor(_threads(encoded)) as pool:
        unreadable = [image for images in pool.map(fill, range(0, count, CHUNK)) for image in images]
    if unreadable:
        index, reason = unreadable[0]
        others = [encoded.names[other] for other, _ in unreadable[1:4]] + (["..."] if len(unreadable) > 4 else [])
        problem = f"the image cannot be read ({reason}); {len(unreadable)} of {count} images are affected"
        problem += f", also {', '.join(others)}" if others else ""
        place = f"{encoded.where}: {encoded.names[index]}"
        raise DataError("data/unreadable-image", place, problem, "repair or remove them")
    return InMemorySplit(encoded.where, torch.from_numpy(pixels), encoded.targets, encoded.names, encoded.classes)


def resize_crop(picture: EncodedImage | None, input: Shape, zoom: float = 1.0) -> Tensor:
    """Scale an image (bilinear, antialiased) so that it covers `zoom` times H x W, and cut its centre.

    Args:
        picture: The image; a float tensor must have the shape `input` and is not changed.
        input: (C, H, W).
        zoom: See above.

    Returns:
        Pixels (C, H, W), uint8 or float32.

    Raises:
        ValueError: The image cannot be decoded to 8 bits per channel.
    """
    if isinstance(picture, Tensor) and picture.is_floating_point():
        if tuple(picture.shape) != input:
            raise ValueError(f"a float image of shape {tuple(picture.shape)}, the model takes {input}")
        return picture.detach().to("cpu", torch.float32)
    return torch.from_numpy(_fitted(picture, input, zoom).copy())


def decode_original(picture: EncodedImage | None, channels: int) -> Tensor:
    """Decode an image in its original size.

    Args:
        picture: The image.
        channels: C.

    Returns:
        Pixels (C, h, w), uint8 or float32.

    Raises:
        ValueError: The image cannot be decoded to 8 bits per channel.
    """
    if isinstance(picture, Tensor) and picture.is_floating_point():
        return picture.detach().to("cpu", torch.float32)
    with _opened(picture) as opened:
        return torch.from_numpy(_pixels(_converted(opened, channels)).copy())


def decode_error(error: Exception) -> str:
    """Describe why an image could not be read."""
    if isinstance(error, UnidentifiedImageError):  # its message is about our buffer
        return "unknown image format"
    return str(error) or type(error).__name__


@contextmanager
def quiet_decoder() -> Iterator[None]:
    """Treat an image that Pillow warns about as a bomb as unreadable, and ignore warnings of dropped transparency."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", "Palette images with Transparency", UserWarning)
        yield


def check_channels(input: Shape) -> None:
    """Raise DataError unless images can be converted to the model's number of channels."""
    if input[0] not in MODES:
        raise DataError(
            "data/unsupported-channels",
            "model.input",
            f"the model takes {input[0]} channels, but images have 1 (grey) or 3 (colour)",
            "give float tensors with data.source: file.py:factory",
        )


def _fitted(picture: EncodedImage | None, input: Shape, zoom: float) -> NDArray[np.uint8]:
    channels, height, width = input
    with _opened(picture) as opened:
        image = _converted(opened, channels)
        if zoom != 1.0:
            image = _centre(_scaled(image, round(zoom * height), round(zoom * width)), height, width)
        elif image.size != (width, height):
            image = ImageOps.fit(image, (width, height), BILINEAR)
        return _pixels(image)


def _opened(picture: EncodedImage | None) -> Image.Image:
    match picture:
        case None:
            raise ValueError("no bytes")
        case bytes():
            return Image.open(io.BytesIO(picture))
        case Path():
            return Image.open(picture)
        case Image.Image():
            return picture.copy()  # because the caller closes it
        case Tensor():
            if picture.dtype != torch.uint8 or picture.ndim != 3 or picture.shape[0] not in MODES:
                problem = f"an image of {picture.dtype} and shape {tuple(picture.shape)}"
                raise ValueError(f"{problem}; give uint8 (1 or 3, H, W) or floats")
            pixels = picture.permute(1, 2, 0).cpu().numpy()
            return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
    raise TypeError(f"an image is a {type(picture).__name__}; give a Pillow image or a tensor")


def _converted(image: Image.Image, channels: int) -> Image.Image:
    """Convert color to gray or back. Images of more than 8 bits per channel are refused, because Pillow would clip."""
    if channels not in MODES:
        raise ValueError(f"images have 1 or 3 channels, but the model takes {channels}; give float tensors")
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"{image.mode} pixels have more than 8 bits per channel")
    return image.convert(MODES[channels])


def _scaled(image: Image.Image, height: int, width: int) -> Image.Image:
    """Scale both sides in proportion until the image covers height x width."""
    w, h = image.size
    if height * w >= width * h:
        return image.resize((max(width, int(height * w / h)), height), BILINEAR)
    return image.resize((width, max(height, int(width * h / w))), BILINEAR)


def _centre(image: Image.Image, height: int, width: int) -> Image.Image:
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Return a read-only view (C, H, W)."""
    return np.asarray(image).reshape(image.height, image.width, -1).transpose(2, 0, 1)


def _threads(encoded: EncodedImages) -> int:
    # Threads pay if the decoder runs long without the GIL. With small images they wait for it (50,000 JPEGs of 32 x 32
    # in memory, 2 cores: 3.1 s with one thread, 5.1 s with two). A user's data set may not be safe for threads.
    first = encoded.pictures[0] if len(encoded.pictures) else None
    large = isinstance(first, Path) or (isinstance(first, bytes) and len(first) >= SMALL)
    return usable_cpu_count() if large else 1
