"""Losses and metrics against their formulas, and a user's own task."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from failures import raises_error
from torch import Tensor, nn

from compressor.core import Task
from compressor.data.image_data import ImageData
from compressor.data.splits import InMemorySplit
from compressor.data.tasks import classification, open_task, primary_output, regression
from compressor.data.validate import check_answers
from compressor.errors import DataError
from compressor.tensors import to_float32, tree_leaves, tree_map

Pair = namedtuple("Pair", "first second")
E = torch.tensor([[0.5, -2.0], [1.0, 3.0]])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_with_smoothing(smoothing: float) -> None:
    """-(1 - s) log p_y - s mean_k log p_k, averaged over the batch."""
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 7), torch.tensor([0, 6, 3, 3, 1])
    log_p = logits - logits.exp().sum(dim=1, keepdim=True).log()
    expected = -((1 - smoothing) * log_p[torch.arange(5), labels] + smoothing * log_p.mean(dim=1)).mean()
    torch.testing.assert_close(classification().loss(logits, labels, smoothing), expected)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("mse", (0.25 + 4 + 1 + 9) / 4),
        ("l1", (0.5 + 2 + 1 + 3) / 4),
        ("smooth_l1", (0.125 + 1.5 + 0.5 + 2.5) / 4),
    ],
)
def test_losses_of_regression(loss: Any, expected: float) -> None:
    assert float(regression(loss).loss(E, torch.zeros(2, 2), 0.0)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "target"), [((4, 1), (4,)), ((4,), (4, 1)), ((4, 1, 3, 5), (4, 3, 5)), ((1, 1), (1,)), ((4, 2), (4, 2))]
)
def test_an_answer_is_put_into_the_targets_shape(answer: tuple[int, ...], target: tuple[int, ...]) -> None:
    """Without it (4, 1) - (4,) is a (4, 4) matrix, and every image is judged by every other's target."""
    values = torch.arange(float(torch.Size(answer).numel()))
    task = regression()
    assert float(task.loss(values.reshape(answer), values.reshape(target), 0.0)) == 0
    each = task.metric.update(values.reshape(answer) + 2, values.reshape(target))
    assert each.tolist() == [4.0] * answer[0]


@pytest.mark.parametrize(("answer", "target"), [((4, 2), (4, 3)), ((4, 3), (4,)), ((4, 5, 3), (4, 3, 5))])
def test_targets_of_another_shape_are_refused(answer: tuple[int, ...], target: tuple[int, ...]) -> None:
    with raises_error(
        DataError, "data/target-shape-differs", "data.task: regression", str(target[1:]), str(answer[1:])
    ):
        regression().loss(torch.zeros(answer), torch.zeros(target), 0.0)


def test_the_main_answer() -> None:
    one, two = torch.zeros(1), torch.ones(1)
    for output in (one, (one, two), [one, two], Pair(one, two), {"out": one, "aux": two}, {"a": [one], "b": two}):
        assert primary_output(output) is one
    assert primary_output({"aux": two, "logits": one}) is one


def test_nested_tree_leaves() -> None:
    value = {"a": (torch.zeros(2), [torch.ones(1, dtype=torch.int64)]), "b": Pair(torch.ones(3).half(), "word")}
    assert [len(each) for each in tree_leaves(value)] == [2, 1, 3]
    doubled = tree_map(lambda each: each * 2, value)
    assert type(doubled["b"]) is Pair
    assert doubled["b"].second == "word"
    assert doubled["a"][1][0].item() == 2
    assert [each.dtype for each in tree_leaves(to_float32(value))] == [torch.float32, torch.int64, torch.float32]


OWN = """
import torch
from compressor.core import Metric, Task
from helper import WEIGHT
def both(output, target, label_smoothing):
    answers, ages = output
    return torch.nn.functional.cross_entropy(answers, target["class"]) + WEIGHT * (ages - target["age"]).abs().mean()
def make():
    return Task("two heads", both, Metric("age", lambda output, target: (output[1] - target["age"]).abs(), unit="a"))
def nothing(): return None
def half(): return Task("half", both, "accuracy")
def broken(): raise KeyError("here")
"""


def test_a_users_own_task(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "helper.py").write_text("WEIGHT = 0.5")
    task = open_task("own.py:make", tmp_path)
    logits, ages = torch.zeros(2, 4), torch.tensor([20.0, 30.0])
    target: dict[str, Tensor] = {"class": torch.tensor([0, 1]), "age": torch.tensor([22.0, 36.0])}
    assert float(task.loss((logits, ages), target, 0.0)) == pytest.approx(torch.log(torch.tensor(4.0)).item() + 2.0)
    assert task.metric.update((logits, ages), target).tolist() == [2.0, 6.0]
    assert isinstance(task, Task)


@pytest.mark.parametrize(
    ("name", "code", "values"),
    [
        ("own.py:nothing", "data/not-a-task", ("data.task: own.py:nothing", "NoneType", "core.Task")),
        ("own.py:half", "data/not-a-task", ("data.task: own.py:half", "Task")),
        ("own.py:broken", "data/user-code-raised", ("own.py:12", "KeyError: 'here'")),
        ("own.py:absent", "data/no-such-callable", ("own.py:absent", "own.py", "make")),
        ("other.py:make", "data/no-such-file", ("data.task", "other.py")),
    ],
)
def test_a_task_that_is_none(tmp_path: Path, name: str, code: str, values: tuple[str, ...]) -> None:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "helper.py").write_text("WEIGHT = 0.5")
    with raises_error(DataError, code, *values):
        open_task(name, tmp_path)


THEIRS = """
import torch
from compressor.core import Metric, Task
def loss(output, target): return (output - target).abs().mean()
def error(output, target): return (output - target).abs().mean(dim=1)
def total(mean): return mean[3]
def full(output, target, smoothing): raise MemoryError
def make(): return Task("ages", loss, Metric("mae", error, total))
def greedy(): return Task("ages", full, Metric("mae", lambda output, target: (output - target).abs().mean()))
"""


def test_what_a_users_loss_or_metric_raises_is_told_as_theirs(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(THEIRS)
    task, greedy = (open_task(f"own.py:{name}", tmp_path) for name in ("make", "greedy"))
    with raises_error(DataError, "data/user-code-raised", "own.py:make", "TypeError: loss()"):
        task.loss(E, E, 0.0)
    assert task.metric.update(E, E + 1).tolist() == [1.0, 1.0]
    with raises_error(DataError, "data/user-code-raised", "own.py:6", "IndexError"):
        task.metric.compute(torch.zeros(2))
    with pytest.raises(MemoryError):  # which batch would fit is found out elsewhere
        greedy.loss(E, E, 0.0)


def test_a_metric_that_has_taken_the_mean_itself_is_refused(tmp_path: Path) -> None:
    """The mean over batches of unlike size, divided by the images, would be told as a number like any other."""
    (tmp_path / "own.py").write_text(THEIRS)
    split = InMemorySplit("ages", torch.zeros(4, 1, 1, 2), torch.zeros(4, 2), list("abcd"))
    data = ImageData("ages", None, (0.0,), (1.0,), split, split, task=open_task("own.py:make", tmp_path))
    check_answers(nn.Flatten(), data)
    with raises_error(DataError, "data/malformed-metric", "data.task: ages", "mae of 2", "()"):
        check_answers(nn.Flatten(), replace(data, task=open_task("own.py:greedy", tmp_path)))
