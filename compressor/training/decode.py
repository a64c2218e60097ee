"""Encoded pictures -> one uint8 tensor of the shape the model takes."""

from __future__ import annotations

import io
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from compressor.errors import DataError
from compressor.training.splits import Encoded, Shape, Split, check_memory

CHUNK = 256
SMALL = 16 * 2**10  # bytes
MODES = {1: "L", 3: "RGB"}  # channels -> Pillow's name


def decode(encoded: Encoded, input: Shape) -> Split:
    """Decode every picture to `input` (see `fit`). Raises DataError naming the pictures that cannot be read."""
    count = len(encoded.pictures)
    check_memory(count, input, encoded.where)
    pixels = np.empty((count, *input), np.uint8)

    def fill(start: int) -> list[tuple[int, str]]:
        bad = []
        for index in range(start, min(start + CHUNK, count)):
            try:
                pixels[index] = read(encoded.pictures[index], input)
            except UnidentifiedImageError:  # its words are about our buffer
                bad.append((index, "no known picture format"))
            except Exception as fault:  # a decoder given damaged bytes may raise anything
                bad.append((index, str(fault) or type(fault).__name__))
        return bad

    with warnings.catch_warnings(), ThreadPoolExecutor(_workers(encoded)) as pool:
        # A picture big enough for the decoder's own warning is counted with the unreadable ones.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", "Palette images with Transparency", UserWarning)  # it is dropped on purpose
        bad = [fault for faults in pool.map(fill, range(0, count, CHUNK)) for fault in faults]
    if bad:
        others = ", ".join(encoded.names[index] for index, _ in bad[1:4]) + (", ..." if len(bad) > 4 else "")
        raise DataError(
            "data",
            f"{encoded.where}: {encoded.names[bad[0][0]]}",
            f"not a readable image ({bad[0][1]}); {len(bad)} of {count} cannot be read"
            + (f", also {others}" if others else ""),
            "repair or remove them",
        )
    return Split(
        encoded.where, torch.from_numpy(pixels), torch.from_numpy(encoded.labels), encoded.names, encoded.classes
    )


def read(picture: bytes | Path | None, input: Shape) -> NDArray[np.uint8]:
    """One encoded picture -> (C, H, W)."""
    if picture is None:
        raise ValueError("no bytes")
    with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
        return fit(image, input)


def fit(image: Image.Image, input: Shape) -> NDArray[np.uint8]:
    """(C, H, W) pixels: colour to grey or back, then scaled (bilinear, antialiased) to cover H x W, and its centre.

    Raises ValueError for more than 8 bits a channel, which Pillow would clip without a word.
    """
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"{image.mode} pixels have more than 8 bits a channel")
    channels, height, width = input
    image = image.convert(MODES[channels])
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)


def check_channels(input: Shape) -> None:
    """Raises DataError unless pictures can be given the model's number of channels."""
    if input[0] not in MODES:
        raise DataError(
            "data", "model.input", f"{input[0]} channels", "pictures have 1 (grey) or 3 (colour): use a factory"
        )


def _workers(encoded: Encoded) -> int:
    # Threads pay where the decoder runs a while without the GIL; on small pictures they only fight for it
    # (50,000 JPEGs of 32 x 32 from memory, 2 cores: 3.1 s with one thread, 5.1 s with two).
    return 1 if all(_is_small(picture) for picture in encoded.pictures) else os.cpu_count() or 1


def _is_small(picture: bytes | Path | None) -> bool:
    return not isinstance(picture, Path) and len(picture or b"") < SMALL
