"""Pictures of any kind -> uint8 tensors of the shape the model takes."""

from __future__ import annotations

import io
import os
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

from compressor.data.splits import EncodedImage, EncodedImages, InMemorySplit, Shape
from compressor.errors import DataError

CHUNK = 256
SMALL = 16 * 2**10  # bytes
MODES = {1: "L", 3: "RGB"}  # channels -> Pillow's name
BILINEAR = Image.Resampling.BILINEAR  # antialiased


def decode(encoded: EncodedImages, input: Shape, zoom: float = 1.0) -> InMemorySplit:
    """Decode every picture to `input` (see `resize_crop`). Raises DataError naming the pictures that cannot be read."""
    count = len(encoded.pictures)
    pixels = np.empty((count, *input), np.uint8)

    def fill(start: int) -> list[tuple[int, str]]:
        bad = []
        for index in range(start, min(start + CHUNK, count)):
            try:
                pixels[index] = _fitted(encoded.pictures[index], input, zoom)
            except Exception as fault:  # a decoder given damaged bytes may raise anything
                bad.append((index, decode_error(fault)))
        return bad

    with quiet_decoder(), ThreadPoolExecutor(_threads(encoded)) as pool:
        bad = [fault for faults in pool.map(fill, range(0, count, CHUNK)) for fault in faults]
    if bad:
        others = ", ".join(encoded.names[index] for index, _ in bad[1:4]) + (", ..." if len(bad) > 4 else "")
        raise DataError(
            "data/unreadable-image",
            f"{encoded.where}: {encoded.names[bad[0][0]]}",
            f"the image cannot be read ({bad[0][1]}); {len(bad)} of {count} images are affected"
            + (f", also {others}" if others else ""),
            "repair or remove them",
        )
    return InMemorySplit(encoded.where, torch.from_numpy(pixels), encoded.targets, encoded.names, encoded.classes)


def resize_crop(picture: EncodedImage | None, input: Shape, zoom: float = 1.0) -> Tensor:
    """(C, H, W) pixels: scaled (bilinear, antialiased) so that its short side is `zoom` times what covers H x W, and
    its centre. Floats must have that shape already, and stay as they are.

    Raises ValueError for what cannot be shown as 8 bits a channel.
    """
    if isinstance(picture, Tensor) and picture.is_floating_point():
        if tuple(picture.shape) != input:
            raise ValueError(f"a float image of shape {tuple(picture.shape)}, the model takes {input}")
        return picture.detach().to("cpu", torch.float32)
    return torch.from_numpy(_fitted(picture, input, zoom).copy())


def is_complete(picture: EncodedImage | None, channels: int) -> Tensor:
    """(C, h, w) pixels of all of the picture. Raises ValueError as `resize_crop` does."""
    if isinstance(picture, Tensor) and picture.is_floating_point():
        return picture.detach().to("cpu", torch.float32)
    with _opened(picture) as opened:
        return torch.from_numpy(_pixels(_converted(opened, channels)).copy())


def decode_error(fault: Exception) -> str:
    """Why a picture could not be read, in words."""
    if isinstance(fault, UnidentifiedImageError):  # its words are about our buffer
        return "no known picture format"
    return str(fault) or type(fault).__name__


@contextmanager
def quiet_decoder() -> Iterator[None]:
    """Pillow's warnings: a picture big enough for one is unreadable, a dropped transparency is meant."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", "Palette images with Transparency", UserWarning)
        yield


def check_channels(input: Shape) -> None:
    """Raises DataError unless pictures can be given the model's number of channels."""
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
            return picture.copy()  # closed by us, and not ours
        case Tensor():
            if picture.dtype != torch.uint8 or picture.ndim != 3 or picture.shape[0] not in MODES:
                found = f"an image of {picture.dtype} and shape {tuple(picture.shape)}"
                raise ValueError(f"{found}; give uint8 (1 or 3, H, W) or floats")
            pixels = picture.permute(1, 2, 0).cpu().numpy()
            return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
    raise TypeError(f"an image is a {type(picture).__name__}; give a Pillow image or a tensor")


def _converted(image: Image.Image, channels: int) -> Image.Image:
    """Colour to grey or back. Pillow would clip more than 8 bits a channel without a word."""
    if channels not in MODES:
        raise ValueError(f"pictures have 1 or 3 channels, the model takes {channels}; give float tensors")
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"{image.mode} pixels have more than 8 bits a channel")
    return image.convert(MODES[channels])


def _scaled(image: Image.Image, height: int, width: int) -> Image.Image:
    """Both sides in proportion, until the picture covers height x width."""
    w, h = image.size
    if height * w >= width * h:
        return image.resize((max(width, int(height * w / h)), height), BILINEAR)
    return image.resize((width, max(height, int(width * h / w))), BILINEAR)


def _centre(image: Image.Image, height: int, width: int) -> Image.Image:
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """(C, H, W), a view that can't be written to."""
    return np.asarray(image).reshape(image.height, image.width, -1).transpose(2, 0, 1)


def _threads(encoded: EncodedImages) -> int:
    # Threads pay where the decoder runs a while without the GIL; on small pictures they only fight for it
    # (50,000 JPEGs of 32 x 32 from memory, 2 cores: 3.1 s with one thread, 5.1 s with two). A user's own data set
    # may not bear them.
    first = encoded.pictures[0] if len(encoded.pictures) else None
    large = isinstance(first, Path) or (isinstance(first, bytes) and len(first) >= SMALL)
    return (os.cpu_count() or 1) if large else 1
