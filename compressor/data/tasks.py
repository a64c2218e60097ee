"""What a model is asked to do: classification, regression, or a user's own loss and metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from compressor.core import Data, Metric, Task
from compressor.data.python_sources import call_factory
from compressor.errors import DataError, is_out_of_memory
from compressor.tensors import tree_leaves
from compressor.user_code import user_errors_as

RegressionLoss = Literal["mse", "l1", "smooth_l1"]
RegressionMetric = Literal["rmse", "mae"]

_LOSSES: dict[RegressionLoss, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "smooth_l1": F.smooth_l1_loss,
}


def open_task(
    name: str, base: Path, *, loss: RegressionLoss | None = None, metric: RegressionMetric | None = None
) -> Task:
    """`classification`, `regression` (by `loss` and `metric`), or `file.py:factory` with the file under `base`.

    Raises DataError when the user's factory returns anything but a `compressor.core.Task`; and so does that task, for
    whatever its loss or metric raises.
    """
    match name:
        case "classification":
            return classification()
        case "regression":
            return regression(loss or "mse", metric or "rmse")
    task = call_factory(base, name, "data.task")
    if not isinstance(task, Task) or not isinstance(task.metric, Metric):
        raise DataError(
            "data/not-a-task",
            f"data.task: {name}",
            f"it returned {type(task).__name__}",
            "return a compressor.core.Task",
        )
    theirs = partial(_theirs, where=name, file=base / name.rpartition(":")[0])
    told = replace(task.metric, each=theirs(task.metric.each), total=theirs(task.metric.total))
    return replace(task, loss=theirs(task.loss), metric=told)


def _theirs(function: Callable[..., Any], *, where: str, file: Path) -> Callable[..., Any]:
    """A function of the user's, whose failures are told as such: they come hours after its file was read."""

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as fault:
            if is_out_of_memory(fault):
                raise
            with user_errors_as(DataError, "data/user-code-raised", f"data.task: {where}", file):
                raise

    return call


def labelled_task(data: Data, purpose: str) -> Task:
    """The task of labelled data.

    Args:
        data: the run's data.
        purpose: what needs the labels, as the subject of the error's sentence.

    Returns:
        The task.

    Raises:
        DataError: the data are samples without labels.
    """
    if data.task is None:
        problem = f"samples without labels, and {purpose} needs them"
        raise DataError("data/no-labels", data.name, problem, "give labelled data, or a criterion that needs none")
    return data.task


def classification() -> Task:
    """One of K classes: logits (B, K) against labels (B,); cross-entropy, and the share of right answers in %."""

    def loss(output: Any, target: Tensor, label_smoothing: float) -> Tensor:
        return F.cross_entropy(primary_output(output), target, label_smoothing=label_smoothing)

    def right(output: Any, target: Tensor) -> Tensor:
        return primary_output(output).argmax(dim=1) == target

    return Task("classification", loss, Metric("accuracy", right, lambda mean: 100 * mean, unit="%"))


def regression(loss: RegressionLoss = "mse", metric: RegressionMetric = "rmse") -> Task:
    """Floats of any shape (B, ...), dense ones too. `loss`: the mean over all of them of

    e^2 (mse), |e| (l1), or e^2/2 where |e| < 1 and |e| - 1/2 elsewhere (smooth_l1; Girshick, ICCV 2015,
    arXiv:1504.08083); e = output - target. `metric`: sqrt(mean e^2) (rmse) or mean |e| (mae) over the test set.
    """

    def error(output: Any, target: Tensor) -> tuple[Tensor, Tensor]:
        return _aligned(primary_output(output), target), target

    def of_batch(output: Any, target: Tensor, label_smoothing: float) -> Tensor:
        del label_smoothing  # of classes
        return _LOSSES[loss](*error(output, target))

    def of_each(output: Any, target: Tensor) -> Tensor:
        answer, target = error(output, target)
        e = (answer - target).double().flatten(1) if target.ndim > 1 else (answer - target).double()[:, None]
        return (e.square() if metric == "rmse" else e.abs()).mean(dim=1)

    def total(mean: Tensor) -> Tensor:
        return mean.sqrt() if metric == "rmse" else mean

    return Task("regression", of_batch, Metric(metric, of_each, total, higher_is_better=False))


def primary_output(output: Any) -> Tensor:
    """The main answer of a model that gives several: `out` or `logits` of a mapping or dataclass, else the first.

    Inception and GoogLeNet return auxiliary logits after the main ones while they train; the segmentation networks of
    torchvision return a dictionary.
    """
    for name in ("out", "logits"):
        main = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(main, Tensor):
            return main
    return tree_leaves(output)[0]


def _aligned(answer: Tensor, target: Tensor) -> Tensor:
    """`answer` in the shape of `target` where they differ in dimensions of size 1 only.

    A (B, 1) answer minus a (B,) target would be a (B, B) matrix. Raises DataError where they do not match.
    """
    if [each for each in answer.shape[1:] if each != 1] != [each for each in target.shape[1:] if each != 1]:
        problem = f"the targets have shape {tuple(target.shape[1:])}, the model's output {tuple(answer.shape[1:])}"
        raise DataError(
            "data/target-shape-differs",
            "data.task: regression",
            problem,
            "give targets of the output's shape, or your own task with data.task: file.py:factory",
        )
    return answer.reshape(target.shape)
