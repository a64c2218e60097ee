"""Tasks, their metrics, and the data that a model is trained and tested on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor


Augment = Literal["none", "flip", "cifar", "imagenet", "trivialaugment", "randaugment"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that says how good a model is: `total` of the mean of `each` over the test images.

    `each`: output and targets of a batch -> statistics (B,) or (B, ...) of every single image, such as counts of true
    and false positives. `total`: their mean (...,) -> the number. The output is what the model returns in eval mode, in
    float32. A metric in % is compared by percentage points, any other metric by its relative change.
    """

    name: str  # accuracy | rmse | ...
    each: Callable[[Any, Any], Tensor]
    total: Callable[[Tensor], Tensor | float] = float
    unit: str = ""
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True)
class Task:
    """What a model is trained for. `loss`: output and targets of a batch, label smoothing -> scalar."""

    name: str
    loss: Callable[[Any, Any, float], Tensor]
    metric: Metric


class Data(Protocol):
    """Images as normalised float32 batches (B, C, H, W) with their targets: int64 labels (B,) for classification,
    floats (B, ...) for regression, otherwise whatever the task's loss takes.

    The test set (`val`) is for reporting only. Choices are made on the held-out split: training images that are never
    trained on.
    """

    @property
    def name(self) -> str: ...
    @property
    def task(self) -> Task | None: ...  # None = samples without labels
    @property
    def num_classes(self) -> int | None: ...  # None = the targets are not classes
    @property
    def train_size(self) -> int: ...
    @property
    def has_holdout(self) -> bool: ...  # whether there is a held-out split

    def train_batches(
        self, batch_size: int, *, epoch: int, seed: int, start: int = 0, part: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[Any, Any]]:
        """Yield shuffled and augmented batches; an incomplete last batch is dropped.

        Args:
            batch_size: Images of a batch, over all processes.
            epoch: The same epoch and seed give the same batches, whatever else draws random numbers.
            seed: Seed of order and augmentation.
            start: Index of the first batch.
            part: (rank, world): yield only this process's share of every batch. The shares are contiguous and together
                make the batch; their sizes differ by one where `world` does not divide it.

        Returns:
            Batches of images and targets.
        """
        ...

    def calibration_batches(self, batch_size: int, *, images: int) -> Iterator[Any]:
        """Yield a fixed sample of training images without augmentation, for calibration, parity and timing.

        Args:
            batch_size: Images of a batch.
            images: Images in all.

        Returns:
            Batches of images.
        """
        ...

    def sample_batches(self, batch_size: int, *, images: int) -> Iterator[tuple[Any, Any]]:
        """Yield the sample of `calibration_batches` with its targets.

        Args:
            batch_size: Images of a batch.
            images: Images in all.

        Returns:
            Batches of images and targets.
        """
        ...

    def holdout_batches(self, batch_size: int) -> Iterator[tuple[Any, Any]]:
        """Yield the held-out split in order, without augmentation; empty where nothing is held out."""
        ...

    def val_batches(self, batch_size: int) -> Iterator[tuple[Any, Any]]:
        """Yield the test set in order, without augmentation."""
        ...
