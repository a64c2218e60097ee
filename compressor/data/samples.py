"""Samples without labels, for recovery and for measuring the agreement with the dense model.

A source yields inputs by row. The rows are split with a fixed seed: four fifths are for calibration and training, one
fifth is the test set and used for no choice. Steps that choose hold out some of the first ones with `with_holdout`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from compressor.batches import with_dims
from compressor.core import BatchDims, ModelInput
from compressor.data.augmentation import Augmentation
from compressor.data.normalize import Normalize
from compressor.data.sampling import SAMPLE_SEED, ProcessShare, held_out_count, process_share, shuffled, spread_rows
from compressor.data.splits import ImageSource
from compressor.errors import DataError
from compressor.tensors import Inputs, as_arguments

TEST_SHARE = 0.2  # of the samples, on which the agreement is measured
MAX_TEST_SAMPLES = 2048  # more would take time without a better estimate


class InputSource(Protocol):
    """Model inputs by row."""

    @property
    def names(self) -> Sequence[str]: ...  # of the samples, for messages
    @property
    def batch_dims(self) -> BatchDims | None: ...  # of the inputs; None = the first dimension of all

    def batches(self, rows: Iterable[Tensor]) -> Iterator[Inputs]:
        """Yield the inputs for each tensor of rows (B,)."""
        ...


@dataclass(frozen=True, slots=True)
class ImageInputs:
    """The images of a split, normalized; its targets are ignored."""

    split: ImageSource
    normalize: Normalize
    batch_dims: None = None

    @property
    def names(self) -> Sequence[str]:
        return self.split.names

    def batches(self, rows: Iterable[Tensor]) -> Iterator[Inputs]:
        """Yield the images for each tensor of rows (B,)."""
        chosen = ((batch, None) for batch in rows)
        return (images for images, _ in self.split.batches(chosen, Augmentation(), self.normalize))


@dataclass(frozen=True, slots=True)
class TensorInputs:
    """Tensors (N, ...), one for each input of the model; for an input without a batch dimension its one value.

    Batches have their samples in the batch dimension of each input; None stands for the first dimension of all.
    """

    tensors: tuple[Tensor, ...]
    names: Sequence[str]
    batch_dims: BatchDims | None = None

    def batches(self, rows: Iterable[Tensor]) -> Iterator[Inputs]:
        """Yield the inputs for each tensor of rows (B,)."""
        pairs = with_dims(self.tensors, self.batch_dims)
        for batch in rows:
            inputs = tuple(tensor if dim is None else tensor[batch].movedim(0, dim) for tensor, dim in pairs)
            yield inputs[0] if len(inputs) == 1 else inputs


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples as `core.Data` without labels.

    Instead of targets, training batches have the rows of their samples (B,), by which outputs of a teacher are cached.
    """

    name: str
    source: InputSource
    task: None = None
    num_classes: Literal[0] | None = None  # 0 = the outputs are values
    held_out: int = 0  # samples that choices are made by, neither trained nor measured on

    @property
    def batch_dims(self) -> BatchDims | None:
        return self.source.batch_dims

    @property
    def train_size(self) -> int:
        return len(self._training_rows())

    @property
    def val_size(self) -> int:
        return len(self._split()[1])

    @property
    def has_holdout(self) -> bool:
        return self.held_out > 0

    def train_batches(
        self, batch_size: int, *, epoch: int, seed: int, start: int = 0, part: ProcessShare = (0, 1)
    ) -> Iterator[tuple[Inputs, Tensor]]:
        """Yield shuffled batches; a set that is smaller than a batch is one batch.

        Args:
            batch_size: Samples in a batch, over all processes.
            epoch: Index of the epoch.
            seed: Seed of the order.
            start: Index of the first batch.
            part: (rank, world size).

        Returns:
            Batches of inputs and rows (B,).
        """
        order = shuffled(self._training_rows(), seed, epoch, None)
        size = min(batch_size, len(order))
        firsts = range(start * size, len(order) - size + 1, size)
        chosen = [order[process_share(first, size, part)] for first in firsts]
        return zip(self.source.batches(chosen), chosen, strict=True)

    def calibration_batches(self, batch_size: int, *, images: int) -> Iterator[Inputs]:
        """Yield the first samples that are not held out, in an order that is always the same.

        Args:
            batch_size: Samples in a batch.
            images: Samples at most.

        Returns:
            Batches of inputs.
        """
        return self.source.batches(torch.split(self._training_rows()[:images], batch_size))

    def sample_batches(self, batch_size: int, *, images: int) -> Iterator[tuple[Inputs, None]]:
        """Yield the batches of `calibration_batches` with None for the targets.

        Args:
            batch_size: Samples in a batch.
            images: Samples at most.

        Returns:
            Batches of inputs and None.
        """
        return ((inputs, None) for inputs in self.calibration_batches(batch_size, images=images))

    def holdout_batches(self, batch_size: int, *, images: int | None = None) -> Iterator[tuple[Inputs, None]]:
        """Yield the samples that choices are made by, in random order; the last batch may be smaller.

        Args:
            batch_size: Samples in a batch.
            images: Samples at most; None = all.

        Returns:
            Batches of inputs and None.
        """
        rows = self._split()[0][self.train_size :][:images]
        return ((inputs, None) for inputs in self.source.batches(torch.split(rows, batch_size) if len(rows) else ()))

    def with_holdout(self, images: int) -> Samples:
        """Hold out training samples for choices, at most a tenth of them, unless some are held out already.

        Args:
            images: Samples at most.

        Returns:
            The samples with this split.
        """
        return self if self.has_holdout else replace(self, held_out=held_out_count(self.train_size, images))

    def val_batches(self, batch_size: int, *, images: int | None = None) -> Iterator[tuple[Inputs, None]]:
        """Yield the test samples in order; the last batch may be smaller.

        Args:
            batch_size: Samples in a batch.
            images: Samples at most, at equal distances; None = all.

        Returns:
            Batches of inputs and None.
        """
        rows = self._split()[1][spread_rows(self.val_size, images)]
        return ((inputs, None) for inputs in self.source.batches(torch.split(rows, batch_size)))

    def _training_rows(self) -> Tensor:
        """The rows to calibrate and train on, shuffled."""
        rows = self._split()[0]
        return rows[: len(rows) - self.held_out]

    def _split(self) -> tuple[Tensor, Tensor]:
        """Split the rows: those to calibrate and train on, shuffled, and the test samples, sorted."""
        count = len(self.source.names)
        order = shuffled(torch.arange(count), SAMPLE_SEED, 0, None)
        tested = min(max(round(TEST_SHARE * count), 1), MAX_TEST_SAMPLES)
        return order[tested:], order[:tested].sort().values


def check_samples(samples: Samples, inputs: Sequence[ModelInput]) -> Samples:
    """Check that the first batch of samples fits the model.

    Args:
        samples: The samples.
        inputs: The inputs of the model.

    Returns:
        `samples`.

    Raises:
        DataError: There are fewer than two samples, a shape or data type differs, or all samples are equal.
    """
    count = len(samples.source.names)
    if count < 2:
        problem = f"there are {count} samples, and at least one is a test sample"
        raise DataError("data/too-few-samples", samples.name, problem, "give at least 2, better 256 or more")
    tensors = as_arguments(next(iter(samples.calibration_batches(64, images=64))))
    for tensor, expected in zip(tensors, inputs, strict=True):
        shape = tuple(size for dim, size in enumerate(tensor.shape) if dim != expected.batch_dim)
        if shape != expected.shape:
            problem = f"the samples have shape {_shape(shape)}, but the model takes {_shape(expected.shape)}"
            channels_last = len(shape) == 3 and (shape[2], *shape[:2]) == expected.shape
            hint = "transpose them to channels first" if channels_last else "resize them or set model.input"
            raise DataError("data/sample-shape", f"{samples.name}: {expected.name}", problem, hint)
        if tensor.dtype != getattr(torch, expected.dtype):
            problem = f"the samples are {tensor.dtype}, but the model takes torch.{expected.dtype}"
            raise DataError("data/sample-type", f"{samples.name}: {expected.name}", problem, "convert them")
    pairs = [(tensor, like.batch_dim) for tensor, like in zip(tensors, inputs, strict=True)]
    by_row = [tensor.movedim(dim, 0) for tensor, dim in pairs if dim is not None]
    if by_row and len(by_row[0]) > 1 and all(bool((tensor == tensor[:1]).all()) for tensor in by_row):
        problem = f"the first {len(by_row[0])} samples are equal"
        raise DataError("data/equal-samples", samples.name, problem, "give different samples")
    return samples


def check_finite_samples(tensors: Sequence[Tensor], names: Sequence[str], where: str) -> None:
    """Check that all numbers of all samples are finite.

    Args:
        tensors: Inputs (N, ...); integers pass.
        names: Names of the N samples, for the message.
        where: The file or factory that they come from.

    Raises:
        DataError: Names the first sample with a number that is not finite.
    """
    for tensor in tensors:
        if tensor.is_floating_point() and len(tensor):
            finite = torch.isfinite(tensor).reshape(len(tensor), -1).all(dim=1)
            if not bool(finite.all()):
                rows = (~finite).nonzero().flatten()
                problem = f"it has a number that is not finite ({len(rows)} of {len(names)} samples are affected)"
                raise DataError("data/not-finite", f"{where}: {names[int(rows[0])]}", problem, "correct or remove it")


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a single number"


def to_inputs(value: Any, inputs: Sequence[ModelInput]) -> tuple[Tensor, ...]:
    """Order the tensors of a sample or batch as the inputs of the model.

    Args:
        value: A tensor, a sequence of tensors in the model's order, or a mapping by input name.
        inputs: The inputs of the model.

    Returns:
        One tensor for each input.

    Raises:
        TypeError: The number or the names of the tensors differ from those of the inputs, or something is no tensor.
    """
    names = [expected.name for expected in inputs]
    if isinstance(value, dict):
        if len(inputs) == 1 and len(value) == 1:
            value = tuple(value.values())
        elif set(names) - set(value):
            raise TypeError(f"the inputs are {', '.join(map(str, value))}, but the model takes {', '.join(names)}")
        else:
            value = tuple(value[name] for name in names)
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    if len(values) != len(inputs):
        raise TypeError(f"there are {len(values)} tensors, but the model takes {len(inputs)} ({', '.join(names)})")
    return tuple(map(_as_tensor, values, names))


def _as_tensor(value: Any, name: str) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"what is given for {name} is a {type(value).__name__}, which is no tensor") from error
