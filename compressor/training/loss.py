"""What is minimised: the task's loss, on mixed images where the recipe mixes them, and the distance to a teacher."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.core import Data, EventSink
from compressor.data.tasks import primary_output
from compressor.errors import RecipeError
from compressor.tensors import to_float32
from compressor.training.distillation import distance, divergence, feature_matching, record_features
from compressor.training.precision import LAYOUT, PrecisionPolicy
from compressor.training.settings import Distillation, TrainSettings
from compressor.training.train_step import LossFn

ForwardFn = Callable[[Tensor], Any]
"""images -> what a model says of them, in float32"""

DistillationLoss = Callable[[Tensor, Any], Tensor]
"""images and the student's answer -> what the teacher adds to `(1 - weight) * task`"""


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
    """The loss of a batch, as `step` says; `forward` runs `module`, `teacher` is there to distil from."""
    mix = make_mixup(step.mixup, step.cutmix, data.num_classes)
    answer = in_precision(arithmetic, forward)

    def of_task(images: Tensor, targets: Any) -> tuple[Tensor, Tensor, Any]:
        images, targets = mix(images, targets)
        output = answer(images)
        return data.task.loss(output, targets, step.label_smoothing), images, output

    if step.distill is None:
        yield lambda images, targets: of_task(images, targets)[0]
        return
    assert teacher is not None, "distillation needs the dense model"
    with _lesson(module, teacher, data, step.distill, arithmetic, emit) as lesson:
        share = 1 - step.distill.weight

        def taught(images: Tensor, targets: Any) -> Tensor:
            loss, images, output = of_task(images, targets)
            return share * loss + lesson(images, output)

        yield taught


def in_precision(arithmetic: PrecisionPolicy, forward: ForwardFn) -> ForwardFn:
    """`forward` in that arithmetic, on images laid out as it likes them, with answers in float32."""

    def answer(images: Tensor) -> Any:
        with arithmetic.autocast():
            return to_float32(forward(images.contiguous(memory_format=LAYOUT)))

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
    """`weight * divergence of the answers + features * distance of the maps`; mean squares without classes."""
    teacher = copy.deepcopy(teacher).to(arithmetic.device).to(memory_format=LAYOUT).eval()
    answer = in_precision(arithmetic, teacher)
    names: tuple[str, ...] = ()
    if settings.features:
        names = feature_matching(
            module, teacher, next(iter(data.calibration_batches(2, images=2))).to(arithmetic.device)
        )
        if names:
            emit("note", {"text": f"feature maps are compared after {', '.join(names)}"})
        else:
            found = "retrain.distill.features does nothing: no feature map has the shape it has in the dense model"
            emit("warning", {"text": found})
    with record_features(module, names) as maps, record_features(teacher, names) as theirs:

        def lesson(images: Tensor, output: Any) -> Tensor:
            with torch.no_grad():
                taught = primary_output(answer(images))
            if data.task.name == "classification":
                loss = divergence(primary_output(output), taught, settings.temperature)
            else:
                loss = F.mse_loss(primary_output(output), taught)
            loss = settings.weight * loss
            return loss + settings.features * distance(maps, theirs, names) if names else loss

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
        todo = "leave retrain.mixup and retrain.cutmix out"
        raise RecipeError("retrain", "mixup" if mixup else "cutmix", "the targets are no classes", todo)
    from torchvision.transforms import v2

    wanted = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
    either: Mix = v2.RandomChoice([kind(alpha=alpha, num_classes=num_classes) for kind, alpha in wanted if alpha])
    return either
