"""The loss of a training: that of the task, with or without mixup, and the distance to a teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.batches import output_batch_dims
from compressor.core import BatchDims, Data, EventSink
from compressor.data.tasks import primary_output
from compressor.errors import RecipeError
from compressor.execution.copies import copy_module
from compressor.tensors import Inputs, call_module, to_float32, tree_map
from compressor.training.distillation import (
    TeacherAnswers,
    answer_distance,
    divergence,
    feature_distance,
    feature_matching,
    record_features,
)
from compressor.training.precision import LAYOUT, PrecisionPolicy, in_layout
from compressor.training.train_settings import Distillation, TrainSettings
from compressor.training.train_step import LossFn

ForwardFn = Callable[..., Any]
"""inputs of a batch -> output of a network, in float32"""

DistillationLoss = Callable[[Inputs, Any, Any], Tensor]
"""inputs, rows of the samples or None, output of the student -> the distance to the teacher"""


@contextmanager
def make_loss(
    module: nn.Module,
    forward: ForwardFn,
    data: Data,
    settings: TrainSettings,
    teacher: nn.Module | None,
    precision: PrecisionPolicy,
    emit: EventSink,
) -> Iterator[LossFn]:
    """Make the loss of a training.

    With labels it is `(1 - weight) * task + weight * answers + features * maps`, without `answers + features * maps`.

    Args:
        module: The network that is trained.
        forward: Runs `module`, over all processes.
        data: Gives the task. Samples without labels have none and need a teacher.
        settings: The training, with its mixup and its distillation.
        teacher: The dense model; None = nothing is distilled.
        precision: The precision of both networks.
        emit: Takes notes and warnings.

    Yields:
        The function of (inputs, targets) that is minimized.

    Raises:
        RecipeError: There are neither labels nor a teacher.
    """
    forward = in_precision(precision, forward)
    task = data.task
    if settings.distill is None and task is None:
        problem = f"{data.name} has no labels, and nothing is distilled"
        hint = "give data with labels: this training has no teacher"
        raise RecipeError("retrain/no-labels", "retrain.distill", problem, hint)
    mix = make_mixup(settings.mixup, settings.cutmix, data.num_classes)

    def _task_loss(inputs: Any, targets: Any) -> tuple[Tensor, Inputs, Any]:
        assert task is not None, "data without labels are distilled"
        inputs, targets = mix(inputs, targets)
        output = forward(inputs)
        return task.loss(output, targets, settings.label_smoothing), inputs, output

    if settings.distill is None:
        yield lambda inputs, targets: _task_loss(inputs, targets)[0]
        return
    assert teacher is not None, "distillation needs the dense model"
    distill = settings.distill
    with _distillation_loss(module, teacher, data, distill, precision, emit) as distillation_loss:

        def _from_both(inputs: Any, targets: Any) -> Tensor:
            loss, inputs, output = _task_loss(inputs, targets)
            return (1 - distill.weight) * loss + distillation_loss(inputs, None, output)

        def _from_teacher(inputs: Any, targets: Any) -> Tensor:
            return distillation_loss(inputs, targets if task is None else None, forward(inputs))

        yield _from_both if distill.labels and task is not None else _from_teacher


def in_precision(precision: PrecisionPolicy, forward: ForwardFn) -> ForwardFn:
    """Wrap a forward pass.

    Args:
        precision: The precision.
        forward: The pass.

    Returns:
        The pass in that precision, with images in channels last and outputs in float32.
    """

    def _forward(inputs: Inputs) -> Any:
        with precision.autocast():
            return to_float32(call_module(forward, in_layout(inputs)))

    return _forward


@contextmanager
def _distillation_loss(
    module: nn.Module,
    teacher: nn.Module,
    data: Data,
    settings: Distillation,
    precision: PrecisionPolicy,
    emit: EventSink,
) -> Iterator[DistillationLoss]:
    teacher = copy_module(teacher).to(precision.device).to(memory_format=LAYOUT).eval()
    labelled = settings.labels and data.task is not None
    names: tuple[str, ...] = ()
    output_dims: BatchDims | None = None
    if settings.features or not labelled:
        sample = next(iter(data.calibration_batches(2, images=2)))
        sample = tree_map(lambda leaf: leaf.to(precision.device), sample)
    if not labelled:
        output_dims = output_batch_dims(teacher, sample, data.batch_dims)
    answers = TeacherAnswers(in_precision(precision, teacher), output_dims)
    if settings.features:
        names = feature_matching(module, teacher, sample)
        if names:
            emit("note", {"text": f"feature maps are compared after {', '.join(names)}"})
        else:
            problem = "retrain.distill.features has no effect: no feature map has the same shape as in the dense model"
            emit("warning", {"text": problem})
    classes = data.task is not None and data.task.name == "classification"
    with record_features(module, names) as maps, record_features(teacher, names) as teacher_maps:

        def _loss(inputs: Inputs, rows: Any, output: Any) -> Tensor:
            with torch.no_grad():
                taught = answers(inputs, None if names else rows)
            if not labelled:
                loss = answer_distance(output, taught, settings.temperature, output_dims, data.num_classes)
            elif classes:
                scores, taught_scores = primary_output(output), primary_output(taught)
                loss = settings.weight * divergence(scores, taught_scores, settings.temperature)
            else:
                loss = settings.weight * F.mse_loss(primary_output(output), primary_output(taught))
            return loss + settings.features * feature_distance(maps, teacher_maps, names) if names else loss

        yield _loss


Mix = Callable[[Tensor, Any], tuple[Tensor, Any]]
"""images and targets of a batch -> the same, mixed"""


def make_mixup(mixup: float, cutmix: float, num_classes: int | None) -> Mix:
    """Make mixup (Zhang et al., ICLR 2018, arXiv:1710.09412), CutMix (Yun et al., ICCV 2019, arXiv:1905.04899), or a
    random choice of both for each batch. They draw from torch's random numbers, which are seeded in every iteration.

    Args:
        mixup: Alpha of the weights' Beta distribution; 0 = no mixup.
        cutmix: Alpha of the areas' Beta distribution; 0 = no CutMix.
        num_classes: The number of classes; 0 or None = the targets are no classes.

    Returns:
        The function that mixes a batch.

    Raises:
        RecipeError: The targets are not classes.
    """
    if not mixup and not cutmix:
        return lambda images, targets: (images, targets)
    if not num_classes:
        key, hint = "retrain.mixup" if mixup else "retrain.cutmix", "omit retrain.mixup and retrain.cutmix"
        raise RecipeError("retrain/mixing-without-classes", key, "the targets are not classes", hint)
    from torchvision.transforms import v2

    transforms = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
    mix: Mix = v2.RandomChoice([kind(alpha=alpha, num_classes=num_classes) for kind, alpha in transforms if alpha])
    return mix
