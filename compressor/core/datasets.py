"""Tasks, their metrics, and the data that a model is trained and tested on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from compressor.core.model import BatchDims


Augment = Literal["none", "flip", "cifar", "imagenet", "trivialaugment", "randaugment"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that says how good a model is: `compute` of the mean of `update` over all test images.

    `update`: output and targets of a batch -> statistics (B,) or (B, ...) of every image, such as counts of true and
    false positives. `compute`: mean of the statistics (...,) -> the number. The output is what the model returns in
    eval mode, in float32. A metric in % is compared in percentage points, any other metric by its relative change.
    """

    name: str  # accuracy | rmse | ...
    update: Callable[[Any, Any], Tensor]
    compute: Callable[[Tensor], Tensor | float] = float
    unit: str = ""
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True)
class Task:
    """What a model is trained for. `loss`: output, targets and label smoothing -> scalar, the mean over a batch."""

    name: str
    loss: Callable[[Any, Any, float], Tensor]
    metric: Metric


class Data(Protocol):
    """Normalized float32 images (B, C, H, W) and their targets in batches.

    Targets are int64 labels (B,) for classification, floats (B, ...) for regression, else whatever the task's loss
    takes. Samples without labels have no task, and inputs of any kind.

    The test set (`val`) is for reporting only. Choices are made on the held-out split, which is taken
    from the training images and never trained on.
    """

    @property
    def name(self) -> str: ...
    @property
    def task(self) -> Task | None: ...  # None = samples without labels
    @property
    def num_classes(self) -> int | None: ...  # 0 = the targets, or the outputs, are values; None = not known
    @property
    def batch_dims(self) -> BatchDims | None: ...  # of the inputs, see `compressor.batches`; None = the first of all
    @property
    def train_size(self) -> int: ...
    @property
    def has_holdout(self) -> bool: ...  # whether there is a held-out split

    def train_batches(
        self, batch_size: int, *, epoch: int, seed: int, start: int = 0, part: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[Any, Any]]:
        """Yield shuffled and augmented batches; an incomplete last batch is dropped.

        Args:
            batch_size: Images in a batch, over all processes.
            epoch: Index of the epoch; the same epoch and seed give the same batches.
            seed: Seed of order and augmentation.
            start: Index of the first batch.
            part: (rank, world size): yield only this process's share of every batch. The shares are contiguous and
                make up the batch; their sizes differ by at most one.

        Returns:
            Batches of images and targets.
        """
        ...

    def calibration_batches(self, batch_size: int, *, images: int) -> Iterator[Any]:
        """Yield a fixed sample of training images without augmentation, for calibration, parity and timing.

        Args:
            batch_size: Images in a batch.
            images: Images in the sample.

        Returns:
            Batches of images.
        """
        ...

    def sample_batches(self, batch_size: int, *, images: int) -> Iterator[tuple[Any, Any]]:
        """Yield the sample of `calibration_batches` with its targets.

        Args:
            batch_size: Images in a batch.
            images: Images in the sample.

        Returns:
            Batches of images and targets.
        """
        ...

    def holdout_batches(self, batch_size: int, *, images: int | None = None) -> Iterator[tuple[Any, Any]]:
        """Yield the held-out split without augmentation; empty if nothing is held out.

        Args:
            batch_size: Images in a batch.
            images: Images at most, of all classes where files are sorted by class; None = all.

        Returns:
            Batches of images and targets.
        """
        ...

    def with_holdout(self, images: int) -> Data:
        """Hold out training images, at most a tenth of them, unless some are held out already.

        Args:
            images: Images at most.

        Returns:
            Data whose training and calibration images are none of the held-out ones; always the same split.
        """
        ...

    def val_batches(self, batch_size: int, *, images: int | None = None) -> Iterator[tuple[Any, Any]]:
        """Yield the test set in order, without augmentation.

        Args:
            batch_size: Images in a batch.
            images: Images at most, at equal distances; None = all.

        Returns:
            Batches of images and targets.
        """
        ...
