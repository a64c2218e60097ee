"""The task of a model: classification, regression, or a user's own loss and metric."""

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
    """Open a task by name.

    Args:
        name: `classification`, `regression` or `file.py:factory`.
        base: The folder that the file is relative to.
        loss: Of regression.
        metric: Of regression.

    Returns:
        The task. The loss and the metric of a user's task raise DataError for any error of the user's code.

    Raises:
        DataError: The factory does not return a `compressor.core.Task`.
    """
    match name:
        case "classification":
            return classification()
        case "regression":
            return regression(loss or "mse", metric or "rmse")
    task = call_factory(base, name, "data.task")
    if not isinstance(task, Task) or not isinstance(task.metric, Metric):
        problem = f"it returned {type(task).__name__}"
        raise DataError("data/not-a-task", f"data.task: {name}", problem, "return a compressor.core.Task")
    guard = partial(_with_user_errors, name=name, file=base / name.rpartition(":")[0])
    guarded_metric = replace(task.metric, update=guard(task.metric.update), compute=guard(task.metric.compute))
    return replace(task, loss=guard(task.loss), metric=guarded_metric)


def _with_user_errors(function: Callable[..., Any], *, name: str, file: Path) -> Callable[..., Any]:
    """Wrap a user's function so that its errors, which may occur hours later, become DataErrors at the user's line."""

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            with user_errors_as(DataError, "data/user-code-raised", f"data.task: {name}", file):
                raise

    return call


def labelled_task(data: Data, purpose: str) -> Task:
    """Return the task of labelled data.

    Args:
        data: The data of the run.
        purpose: What needs the labels, as the subject of the error's sentence.

    Returns:
        The task.

    Raises:
        DataError: The data are samples without labels.
    """
    if data.task is None:
        problem = f"the samples have no labels, but {purpose} needs them"
        raise DataError("data/no-labels", data.name, problem, "give labelled data, or a criterion that needs none")
    return data.task


def classification() -> Task:
    """Make the task of logits (B, K) and labels (B,): cross-entropy, and accuracy in %."""

    def _loss(output: Any, target: Tensor, label_smoothing: float) -> Tensor:
        return F.cross_entropy(primary_output(output), target, label_smoothing=label_smoothing)

    def _is_correct(output: Any, target: Tensor) -> Tensor:
        return primary_output(output).argmax(dim=1) == target

    return Task("classification", _loss, Metric("accuracy", _is_correct, lambda mean: 100 * mean, unit="%"))


def regression(loss: RegressionLoss = "mse", metric: RegressionMetric = "rmse") -> Task:
    """Make the task of floats of any shape (B, ...). With e = output - target:

    Args:
        loss: The mean of e^2 (mse), of |e| (l1), or of e^2/2 where |e| < 1 and |e| - 1/2 elsewhere (smooth_l1;
            Girshick, ICCV 2015, arXiv:1504.08083).
        metric: Sqrt(mean e^2) (rmse) or mean |e| (mae) over the test set.

    Returns:
        The task.
    """

    def _loss(output: Any, target: Tensor, label_smoothing: float) -> Tensor:
        return _LOSSES[loss](_aligned(primary_output(output), target), target)

    def _update(output: Any, target: Tensor) -> Tensor:
        e = (_aligned(primary_output(output), target) - target).double()
        return (e.square() if metric == "rmse" else e.abs()).reshape(len(e), -1).mean(dim=1)

    def _compute(mean: Tensor) -> Tensor:
        return mean.sqrt() if metric == "rmse" else mean

    return Task("regression", _loss, Metric(metric, _update, _compute, higher_is_better=False))


def primary_output(output: Any) -> Tensor:
    """Return the main output of a network: `out` or `logits` of a mapping or dataclass, else its first tensor.

    Inception and GoogLeNet return auxiliary logits after the main ones in training mode. The segmentation networks of
    torchvision return a dictionary.
    """
    for name in ("out", "logits"):
        main = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(main, Tensor):
            return main
    return tree_leaves(output)[0]


def _aligned(answer: Tensor, target: Tensor) -> Tensor:
    """Reshape an output to the shape of the targets if they differ in dimensions of size 1 only, else raise DataError.

    An output (B, 1) minus a target (B,) would be a matrix (B, B).
    """
    if [size for size in answer.shape[1:] if size != 1] != [size for size in target.shape[1:] if size != 1]:
        problem = f"the targets have shape {tuple(target.shape[1:])}, the model's output {tuple(answer.shape[1:])}"
        hint = "give targets of the output's shape, or your own task with data.task: file.py:factory"
        raise DataError("data/target-shape-differs", "data.task: regression", problem, hint)
    return answer.reshape(target.shape)
