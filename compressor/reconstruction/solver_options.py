"""How layers are solved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from compressor.core import MaskSearch, NMPattern
from compressor.reconstruction.solve import RIDGES


@dataclass(frozen=True, slots=True)
class ReconstructionSettings:
    """How layers are solved."""

    mode: Literal["sequential", "parallel"] = "sequential"
    ridges: Sequence[float] = RIDGES
    holdout: float = 0.2  # share of the images that only judge
    positions: int = 64  # sampled for each image
    batch_size: int = 32
    rectify: bool = True  # layers in front of a ReLU are fitted to what it lets through, see rectified.py
    residual: bool = True  # the last layer of a branch aims at what the shortcut lacks
    mask_searches: Sequence[MaskSearch] = ()  # beside the given masks, see masked.py
    pattern: NMPattern | None = None  # of the masks; None for unstructured ones
    most_features: int = 6144  # inputs n of a row; rows of layers with more are scaled, for moments take 8 n^2 bytes
    memory: int = 3 * 2**30  # bytes that activations may take
    seed: int = 0
