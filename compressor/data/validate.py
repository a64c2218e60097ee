"""What must hold of data before anything is trained or measured on it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressor.core import Augment, Data, Task
from compressor.data.splits import ImageSource, InMemorySplit
from compressor.data.tasks import primary_output
from compressor.errors import DataError
from compressor.tensors import to_float32, tree_leaves


def check_targets(task: Task, train: ImageSource, val: ImageSource, num_classes: int | None) -> int | None:
    """The number of classes, None where the task has none.

    Raises DataError for an empty split, an impossible label, classes unlike the model's, a target that is no number.
    """
    for split in (train, val):
        if not split.names:
            raise DataError("data", split.where, "no images", "give at least one in each split")
    if task.name == "classification":
        return _classes(train, val, num_classes)
    for split in (train, val):
        if task.name == "regression" and not _is_float(split.targets):
            found = "targets that are classes, or several a picture"
            raise DataError(
                "data",
                split.where,
                found,
                "give floats: a column of them, or a tensor for each by data.source: file.py:it",
            )
        for each in tree_leaves(split.targets):
            wrong = (~torch.isfinite(each)).flatten(1).any(dim=1) if each.ndim > 1 else ~torch.isfinite(each)
            if len(rows := wrong.nonzero().flatten()):
                where = f"{split.where}: {split.names[int(rows[0])]}"
                raise DataError(
                    "data", where, f"a target that is not finite ({len(rows)} such)", "correct or remove it"
                )
    return None


def check_answers(module: nn.Module, data: Data) -> None:
    """Raises DataError where the data have classes and the model does not answer with a score for each, (B, K); or
    where the metric has not one value for each image, whose mean would be another number."""
    if data.task is None:  # the answers are compared with the dense model's, whatever they are
        return
    images, targets = next(iter(data.sample_batches(2, images=2)))
    with torch.inference_mode():
        answers = to_float32(module(images))
        if data.num_classes is None:
            _check_metric(data.task, data.task.metric.each(answers, targets), len(images))
            return
    scores = primary_output(answers)
    if scores.ndim != 2 or scores.shape[1] < data.num_classes:
        shape = "x".join(map(str, scores.shape[1:])) or "one number"
        found = f"{data.num_classes} classes, and the model answers an image with {shape}"
        todo = "give data of the model's classes, or say in data.task what it is to learn"
        raise DataError("data", data.name, found, todo)


def _check_metric(task: Task, found: object, images: int) -> None:
    if not isinstance(found, Tensor) or found.shape[:1] != (images,):
        shape = f"of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        todo = "return one value, or row of them, for each image, (B,) or (B, ...)"
        raise DataError("data", f"data.task: {task.name}", f"{task.metric.name} of {images} images is {shape}", todo)


def check_augmentation(augment: Augment, train: ImageSource) -> None:
    """Raises DataError for a change that would leave the targets behind, or that floats can't bear."""
    if augment == "none":
        return
    found = list(tree_leaves(train.targets))
    if len(found) != 1 or found[0].ndim > 2:
        shape = (
            f"targets of shape {tuple(found[0].shape[1:])}" if len(found) == 1 else f"{len(found)} targets a picture"
        )
        todo = "use none, and augment both in your data set"
        raise DataError("data", f"data.augment: {augment}", f"{shape} would stay where the picture moves", todo)
    if (
        augment in ("trivialaugment", "randaugment")
        and isinstance(train, InMemorySplit)
        and train.images.is_floating_point()
    ):
        found_words = "it changes colours, and these images are floats"
        raise DataError("data", f"data.augment: {augment}", found_words, "give uint8 images, or use cifar")


def check_held_out(rows: Tensor, share: float, train: ImageSource) -> Tensor:
    """`rows`. Raises DataError where a share was asked for and none came of it."""
    if share and not len(rows):
        found = f"{100 * share:.3g}% of {len(train.names)} training images is none"
        raise DataError("data", "data.holdout", found, "hold out a larger share, or give more images")
    return rows


def _is_float(targets: object) -> bool:
    return isinstance(targets, Tensor) and targets.is_floating_point()


def _classes(train: ImageSource, val: ImageSource, num_classes: int | None) -> int:
    if train.classes != val.classes:
        missing = set(train.classes or ()) ^ set(val.classes or ())
        raise DataError(
            "data",
            val.where,
            f"its classes differ from those of {train.where}: " + ", ".join(sorted(missing)[:5] or ["another order"]),
            "give both splits the same classes",
        )
    largest = int(train.targets.argmax())
    count = len(train.classes) if train.classes else int(train.targets[largest]) + 1
    for split in (train, val):
        if len(wrong := ((split.targets < 0) | (split.targets >= count)).nonzero().flatten()):
            first = int(wrong[0])
            bounds = f"outside 0..{count - 1}" if count > 0 else "below 0"
            raise DataError(
                "data",
                f"{split.where}: {split.names[first]}",
                f"label {int(split.targets[first])} is {bounds} ({len(wrong)} such labels)",
                "correct or remove them",
            )
    if num_classes is not None and count != num_classes:
        raise DataError(
            "data",
            train.where,
            f"found {count} classes (largest label {int(train.targets[largest])}, {train.names[largest]}), "
            f"the model has {num_classes}",
            "give data of the model's classes, or a model of the data's",
        )
    return count
