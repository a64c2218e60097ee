"""What is minimised: the task's loss, on mixed images where the recipe mixes them, and the distance to a teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.core import Data, EventSink
from compressor.data.tasks import primary_output
from compressor.errors import RecipeError
from compressor.execution.copies import copy_module
from compressor.tensors import Inputs, call_module, to_float32, tree_map
from compressor.training.distillation import (
    TeacherAnswers,
    answer_distance,
    distance,
    divergence,
    feature_matching,
    record_features,
)
from compressor.training.precision import LAYOUT, PrecisionPolicy, in_layout
from compressor.training.settings import Distillation, TrainSettings
from compressor.training.train_step import LossFn

ForwardFn = Callable[..., Any]
"""inputs of a batch -> what a model answers, in float32"""

DistillationLoss = Callable[[Inputs, Any, Any], Tensor]
"""inputs, targets and the student's answer -> the distance to the teacher"""


@contextmanager
def make_loss(
    module: nn.Module,
    forward: ForwardFn,
    data: Data,
    step: TrainSettings,
    teacher: nn.Module | None,
    arithmetic: PrecisionPolicy,
    emit: EventSink,
) -> Iterator[LossFn]:
    """The loss of a batch.

    With labels `(1 - weight) * task + weight * answers + features * maps`; without, `answers + features * maps`.

    Args:
        module: the network that is trained.
        forward: runs `module`, over all processes.
        data: gives the task; one without labels has none, and needs a teacher.
        step: the training, with its mixup and its distillation.
        teacher: the dense model; None where nothing is distilled.
        arithmetic: what both networks compute in.
        emit: takes notes and warnings.

    Yields:
        The function of (inputs, targets) that is minimised.

    Raises:
        RecipeError: neither labels nor a teacher say what is to be learned.
    """
    answer = in_precision(arithmetic, forward)
    task = data.task
    if step.distill is None and task is None:
        problem = f"{data.name} has no labels, and nothing is distilled"
        hint = "set retrain.distill={teacher: dense, labels: false}"
        raise RecipeError("retrain/no-labels", "retrain.distill", problem, hint)
    mix = make_mixup(step.mixup, step.cutmix, data.num_classes)

    def of_task(inputs: Any, targets: Any) -> tuple[Tensor, Inputs, Any]:
        assert task is not None, "data without labels are distilled"
        inputs, targets = mix(inputs, targets)
        output = answer(inputs)
        return task.loss(output, targets, step.label_smoothing), inputs, output

    if step.distill is None:
        yield lambda inputs, targets: of_task(inputs, targets)[0]
        return
    assert teacher is not None, "distillation needs the dense model"
    settings = step.distill
    with _lesson(module, teacher, data, settings, arithmetic, emit) as lesson:

        def from_both(inputs: Any, targets: Any) -> Tensor:
            loss, inputs, output = of_task(inputs, targets)
            return (1 - settings.weight) * loss + lesson(inputs, None, output)

        def from_teacher(inputs: Any, targets: Any) -> Tensor:
            return lesson(inputs, targets if task is None else None, answer(inputs))

        yield from_both if settings.labels and task is not None else from_teacher


def in_precision(arithmetic: PrecisionPolicy, forward: ForwardFn) -> ForwardFn:
    """Wrap a forward pass.

    Args:
        arithmetic: what it computes in.
        forward: the pass.

    Returns:
        The pass in that arithmetic, on images in the layout it prefers, with answers in float32.
    """

    def answer(inputs: Inputs) -> Any:
        with arithmetic.autocast():
            return to_float32(call_module(forward, in_layout(inputs)))

    return answer


@contextmanager
def _lesson(
    module: nn.Module,
    teacher: nn.Module,
    data: Data,
    settings: Distillation,
    arithmetic: PrecisionPolicy,
    emit: EventSink,
) -> Iterator[DistillationLoss]:
    teacher = copy_module(teacher).to(arithmetic.device).to(memory_format=LAYOUT).eval()
    answer = TeacherAnswers(in_precision(arithmetic, teacher))
    names: tuple[str, ...] = ()
    if settings.features:
        sample = next(iter(data.calibration_batches(2, images=2)))
        names = feature_matching(module, teacher, tree_map(lambda leaf: leaf.to(arithmetic.device), sample))
        if names:
            emit("note", {"text": f"feature maps are compared after {', '.join(names)}"})
        else:
            problem = "retrain.distill.features does nothing: no feature map has the shape it has in the dense model"
            emit("warning", {"text": problem})
    labelled = settings.labels and data.task is not None
    classes = data.task is not None and data.task.name == "classification"
    with record_features(module, names) as maps, record_features(teacher, names) as teacher_maps:

        def lesson(inputs: Inputs, rows: Any, output: Any) -> Tensor:
            with torch.no_grad():
                taught = answer(inputs, None if names else rows)
            if not labelled:
                loss = answer_distance(output, taught, settings.temperature)
            elif classes:
                scores, taught_scores = primary_output(output), primary_output(taught)
                loss = settings.weight * divergence(scores, taught_scores, settings.temperature)
            else:
                loss = settings.weight * F.mse_loss(primary_output(output), primary_output(taught))
            return loss + settings.features * distance(maps, teacher_maps, names) if names else loss

        yield lesson


Mix = Callable[[Tensor, Any], tuple[Tensor, Any]]
"""images and targets of a batch -> the same, mixed"""


def make_mixup(mixup: float, cutmix: float, num_classes: int | None) -> Mix:
    """Mixup with weights from Beta(mixup, mixup) (Zhang et al., ICLR 2018, arXiv:1710.09412), CutMix with areas from
    Beta(cutmix, cutmix) (Yun et al., ICCV 2019, arXiv:1905.04899); where both are given, either by turns, at random.

    They draw from torch's own random numbers, which checkpoints hold. Raises RecipeError where there are no labels.
    """
    if not mixup and not cutmix:
        return lambda images, targets: (images, targets)
    if num_classes is None:
        hint = "omit retrain.mixup and retrain.cutmix"
        raise RecipeError(
            "retrain/mixing-without-classes",
            f"retrain.{'mixup' if mixup else 'cutmix'}",
            "the targets are not classes",
            hint,
        )
    from torchvision.transforms import v2

    wanted = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
    either: Mix = v2.RandomChoice([kind(alpha=alpha, num_classes=num_classes) for kind, alpha in wanted if alpha])
    return either
