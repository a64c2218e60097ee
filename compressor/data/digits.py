"""The data set in this package: handwritten digits, 1797 gray images of 8 x 8 pixels in ten classes.

The test part of "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak, UCI Machine Learning
Repository, 1998, https://doi.org/10.24432/C50P49, licence CC BY 4.0, as scikit-learn distributes it
(`sklearn.datasets.load_digits`). Changed here: values stored as uint8, split in two, scaled from 0..16 to 0..255.
"""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import torch
from PIL import Image

from compressor.data.decode import resize_crop
from compressor.data.splits import InMemorySplit, Shape, as_targets

CLASSES = tuple("0123456789")
TRAIN_SIZE = 1500
SPLIT_SEED = 0  # of the permutation whose first TRAIN_SIZE images are the training split


def digits_split(split: str, input: Shape) -> InMemorySplit:
    """Load a split, scaled to the shape that the model takes.

    Args:
        split: `train` (1500 images) or `val` (297).
        input: (C, H, W).

    Returns:
        The split.
    """
    with files("compressor.data").joinpath("digits.npz").open("rb") as stored, np.load(stored) as arrays:
        values, labels = arrays["images"], arrays["labels"]
    order = np.random.RandomState(SPLIT_SEED).permutation(len(labels))  # the stream of this generator never changes
    rows = order[:TRAIN_SIZE] if split == "train" else order[TRAIN_SIZE:]
    pixels = np.round(values[rows] * (255 / 16)).astype(np.uint8)
    images = torch.stack([resize_crop(Image.fromarray(image), input) for image in pixels])
    return InMemorySplit(
        where="digits",
        images=images,
        targets=as_targets(labels[rows]),
        names=[f"{split} row {row}" for row in range(len(rows))],
        classes=CLASSES,
    )
