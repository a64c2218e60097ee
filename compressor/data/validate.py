"""Checks of data before a model is trained or measured on them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressor.core import Augment, Data, Task
from compressor.data.splits import ImageSource, InMemorySplit
from compressor.data.tasks import primary_output
from compressor.errors import DataError
from compressor.execution.copies import copy_module
from compressor.tensors import to_float32, tree_leaves


def check_targets(task: Task, train: ImageSource, val: ImageSource, num_classes: int | None) -> int | None:
    """Check that the targets fit the task.

    Args:
        task: The task.
        train: The training split.
        val: The test split.
        num_classes: The model's number of classes; None = any number.

    Returns:
        The number of classes; 0 for regression, None for a task of the user.

    Raises:
        DataError: A split is empty, a label is out of range, the classes differ from the model's, or a target is not
            finite.
    """
    for split in (train, val):
        if not split.names:
            hint = "give at least one image in each split"
            raise DataError("data/no-images", split.where, "the split has no images", hint)
    if task.name == "classification":
        return _classes(train, val, num_classes)
    for split in (train, val):
        if task.name == "regression" and not _is_float(split.targets):
            problem = "the targets are classes, or several for each image"
            hint = "give floats: a float column, or one tensor for each image with data.source: file.py:factory"
            raise DataError("data/targets-not-floats", split.where, problem, hint)
        for targets in tree_leaves(split.targets):
            not_finite = ~torch.isfinite(targets).reshape(len(targets), -1).all(dim=1)
            if len(rows := not_finite.nonzero().flatten()):
                place = f"{split.where}: {split.names[int(rows[0])]}"
                problem = f"the target is not finite ({len(rows)} in all)"
                raise DataError("data/non-finite-target", place, problem, "correct or remove them")
    return 0 if task.name == "regression" else None


def check_answers(module: nn.Module, data: Data) -> None:
    """Check that the outputs of a model fit the task.

    Args:
        module: The network.
        data: The data.

    Raises:
        DataError: The data have classes, but the output is not a score for each, (B, K). Or a metric does not return
            one value or row per image, so that its mean would be wrong.
    """
    if data.task is None:  # outputs of any kind are compared with those of the dense model
        return
    images, targets = next(iter(data.sample_batches(2, images=2)))
    with torch.inference_mode():
        output = to_float32(copy_module(module)(images))  # forward may change the module's state
        if not data.num_classes:
            _check_metric(data.task, data.task.metric.update(output, targets), len(images))
            return
    scores = primary_output(output)
    if scores.ndim != 2 or scores.shape[1] < data.num_classes:
        shape = "x".join(map(str, scores.shape[1:])) or "one number"
        problem = f"the data have {data.num_classes} classes, but the model's output for an image has shape {shape}"
        hint = "give data with the model's classes, or set data.task"
        raise DataError("data/too-few-outputs", data.name, problem, hint)


def _check_metric(task: Task, values: object, images: int) -> None:
    if not isinstance(values, Tensor) or values.shape[:1] != (images,):
        shape = f"of shape {tuple(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
        problem = f"{task.metric.name} of {images} images is {shape}"
        hint = "return one value or one row of values for each image: (B,) or (B, ...)"
        raise DataError("data/malformed-metric", f"data.task: {task.name}", problem, hint)


def check_augmentation(augment: Augment, train: ImageSource) -> None:
    """Check that an augmentation can be applied.

    Args:
        augment: The augmentation.
        train: The training split.

    Raises:
        DataError: The targets have a position in the image, or the augmentation needs uint8 images.
    """
    if augment == "none":
        return
    place, targets = f"data.augment: {augment}", tree_leaves(train.targets)
    if len(targets) != 1 or targets[0].ndim > 2:
        several = f"{len(targets)} targets for each image"
        shape = f"targets of shape {tuple(targets[0].shape[1:])}" if len(targets) == 1 else several
        hint = "set data.augment: none, and augment images and targets together in your data set"
        raise DataError("data/augment-moves-targets", place, f"it moves the image but not the {shape}", hint)
    has_floats = isinstance(train, InMemorySplit) and train.images.is_floating_point()
    if augment in ("trivialaugment", "randaugment") and has_floats:
        problem = "it changes colors of uint8 images, and these images are floats"
        raise DataError("data/augment-needs-uint8", place, problem, "give uint8 images, or set data.augment: cifar")


def check_held_out(rows: Tensor, share: float, train: ImageSource) -> None:
    """Check that a share of held-out images is at least one image.

    Args:
        rows: The held-out rows.
        share: The share.
        train: The training split.

    Raises:
        DataError: The share is positive, but no row is held out.
    """
    if share and not len(rows):
        problem = f"{100 * share:.3g}% of {len(train.names)} training images is less than one image"
        raise DataError("data/empty-holdout", "data.holdout", problem, "hold out a larger share, or give more images")


def _is_float(targets: object) -> bool:
    return isinstance(targets, Tensor) and targets.is_floating_point()


def _classes(train: ImageSource, val: ImageSource, num_classes: int | None) -> int:
    if train.classes != val.classes:
        difference = sorted(set(train.classes or ()) ^ set(val.classes or ()))[:5] or ["another order"]
        problem = f"its classes differ from those of {train.where}: {', '.join(difference)}"
        raise DataError("data/split-classes-differ", val.where, problem, "use the same classes in both splits")
    largest = int(train.targets.argmax())
    count = len(train.classes) if train.classes else int(train.targets[largest]) + 1
    for split in (train, val):
        if len(wrong := ((split.targets < 0) | (split.targets >= count)).nonzero().flatten()):
            first = int(wrong[0])
            bounds = f"outside 0..{count - 1}" if count > 0 else "below 0"
            problem = f"label {int(split.targets[first])} is {bounds} ({len(wrong)} in all)"
            place = f"{split.where}: {split.names[first]}"
            raise DataError("data/label-out-of-range", place, problem, "correct or remove them")
    if num_classes is not None and count != num_classes:
        example = f"largest label {int(train.targets[largest])}, {train.names[largest]}"
        problem = f"it has {count} classes ({example}), but the model has {num_classes}"
        hint = "give data with the model's classes, or a model with the classes of the data"
        raise DataError("data/class-count-differs", train.where, problem, hint)
    return count
