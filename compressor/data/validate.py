"""What must hold of data before anything is trained or measured on it."""

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
    """The number of classes, None where the task has none.

    Raises DataError for an empty split, an impossible label, classes unlike the model's, a target that is no number.
    """
    for split in (train, val):
        if not split.names:
            raise DataError(
                "data/no-images", split.where, "the split has no images", "give at least one image in each split"
            )
    if task.name == "classification":
        return _classes(train, val, num_classes)
    for split in (train, val):
        if task.name == "regression" and not _is_float(split.targets):
            problem = "the targets are classes, or several for each image"
            raise DataError(
                "data/targets-not-floats",
                split.where,
                problem,
                "give floats: a float column, or one tensor for each image with data.source: file.py:factory",
            )
        for each in tree_leaves(split.targets):
            wrong = (~torch.isfinite(each)).flatten(1).any(dim=1) if each.ndim > 1 else ~torch.isfinite(each)
            if len(rows := wrong.nonzero().flatten()):
                where = f"{split.where}: {split.names[int(rows[0])]}"
                raise DataError(
                    "data/non-finite-target",
                    where,
                    f"the target is not finite ({len(rows)} in all)",
                    "correct or remove them",
                )
    return None


def check_answers(module: nn.Module, data: Data) -> None:
    """Raises DataError where the data have classes and the model does not answer with a score for each, (B, K); or
    where the metric has not one value for each image, whose mean would be another number."""
    if data.task is None:  # the answers are compared with the dense model's, whatever they are
        return
    images, targets = next(iter(data.sample_batches(2, images=2)))
    with torch.inference_mode():
        answers = to_float32(copy_module(module)(images))  # forward may change the module's state
        if data.num_classes is None:
            _check_metric(data.task, data.task.metric.each(answers, targets), len(images))
            return
    scores = primary_output(answers)
    if scores.ndim != 2 or scores.shape[1] < data.num_classes:
        shape = "x".join(map(str, scores.shape[1:])) or "one number"
        problem = f"the data have {data.num_classes} classes, but the model's output for an image has shape {shape}"
        hint = "give data with the model's classes, or set data.task"
        raise DataError("data/too-few-outputs", data.name, problem, hint)


def _check_metric(task: Task, found: object, images: int) -> None:
    if not isinstance(found, Tensor) or found.shape[:1] != (images,):
        shape = f"of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        hint = "return one value or one row of values for each image: (B,) or (B, ...)"
        raise DataError(
            "data/malformed-metric",
            f"data.task: {task.name}",
            f"{task.metric.name} of {images} images is {shape}",
            hint,
        )


def check_augmentation(augment: Augment, train: ImageSource) -> None:
    """Raises DataError for a change that would leave the targets behind, or that floats can't bear."""
    if augment == "none":
        return
    found = list(tree_leaves(train.targets))
    if len(found) != 1 or found[0].ndim > 2:
        shape = (
            f"targets of shape {tuple(found[0].shape[1:])}"
            if len(found) == 1
            else f"{len(found)} targets for each image"
        )
        hint = "set data.augment: none, and augment images and targets together in your data set"
        raise DataError(
            "data/augment-moves-targets", f"data.augment: {augment}", f"it moves the image but not the {shape}", hint
        )
    if (
        augment in ("trivialaugment", "randaugment")
        and isinstance(train, InMemorySplit)
        and train.images.is_floating_point()
    ):
        problem = "it changes colours of uint8 images, and these images are floats"
        raise DataError(
            "data/augment-needs-uint8",
            f"data.augment: {augment}",
            problem,
            "give uint8 images, or set data.augment: cifar",
        )


def check_held_out(rows: Tensor, share: float, train: ImageSource) -> Tensor:
    """`rows`. Raises DataError where a share was asked for and none came of it."""
    if share and not len(rows):
        problem = f"{100 * share:.3g}% of {len(train.names)} training images is less than one image"
        raise DataError("data/empty-holdout", "data.holdout", problem, "hold out a larger share, or give more images")
    return rows


def _is_float(targets: object) -> bool:
    return isinstance(targets, Tensor) and targets.is_floating_point()


def _classes(train: ImageSource, val: ImageSource, num_classes: int | None) -> int:
    if train.classes != val.classes:
        missing = set(train.classes or ()) ^ set(val.classes or ())
        raise DataError(
            "data/split-classes-differ",
            val.where,
            f"its classes differ from those of {train.where}: " + ", ".join(sorted(missing)[:5] or ["another order"]),
            "use the same classes in both splits",
        )
    largest = int(train.targets.argmax())
    count = len(train.classes) if train.classes else int(train.targets[largest]) + 1
    for split in (train, val):
        if len(wrong := ((split.targets < 0) | (split.targets >= count)).nonzero().flatten()):
            first = int(wrong[0])
            bounds = f"outside 0..{count - 1}" if count > 0 else "below 0"
            raise DataError(
                "data/label-out-of-range",
                f"{split.where}: {split.names[first]}",
                f"label {int(split.targets[first])} is {bounds} ({len(wrong)} in all)",
                "correct or remove them",
            )
    if num_classes is not None and count != num_classes:
        raise DataError(
            "data/class-count-differs",
            train.where,
            f"it has {count} classes (largest label {int(train.targets[largest])}, {train.names[largest]}), "
            f"but the model has {num_classes}",
            "give data with the model's classes, or a model with the classes of the data",
        )
    return count
