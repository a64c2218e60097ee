from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from failures import raises_error
from torch import Tensor, nn

from compressor.core import Metric
from compressor.data.image_data import ImageData
from compressor.data.splits import InMemorySplit
from compressor.data.tasks import classification, regression
from compressor.errors import VerificationFailed
from compressor.training.evaluate import evaluate, validation_metric

ACCURACY = classification().metric


def data(labels: list[int]) -> ImageData:
    """One-pixel float images whose two channels are the logits (0, 1): class 1 is always the answer."""
    images = torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1).repeat(len(labels), 1, 1, 1)
    split = InMemorySplit("here", images, torch.tensor(labels), [f"item {index}" for index in range(len(labels))])
    return ImageData("toy", 2, (0.0, 0.0), (1.0, 1.0), split, split)


@pytest.mark.parametrize(("labels", "expected"), [([1, 1], 100.0), ([0, 1, 1, 1, 0], 60.0), ([0], 0.0)])
@pytest.mark.parametrize("batch_size", [1, 2, 512])
def test_counts_every_image_once(labels: list[int], expected: float, batch_size: int) -> None:
    module = nn.Flatten().train()
    assert evaluate(module, data(labels).val_batches(batch_size), ACCURACY) == pytest.approx(expected)
    assert module.training, "the module is left as it was"


def batches(outputs: Tensor, targets: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`outputs` as pictures of (B, K, 1, 1), so that flattening them is a network that answers with them."""
    return zip(outputs[:, :, None, None].split(size), targets.split(size), strict=True)


@pytest.mark.parametrize("size", [1, 4, 10])
def test_errors_are_over_the_whole_test_set(size: int) -> None:
    """sqrt(mean e^2) over all images, which is no mean of the batches' roots; mean |e|."""
    torch.manual_seed(0)
    outputs, targets = torch.randn(10, 3), torch.randn(10, 3)
    for name, expected in (
        ("rmse", (outputs - targets).square().mean().sqrt()),
        ("mae", (outputs - targets).abs().mean()),
    ):
        metric = regression(metric=name).metric
        assert evaluate(nn.Flatten(), batches(outputs, targets, size), metric) == pytest.approx(float(expected), 1e-5)
        assert (metric.name, metric.higher_is_better) == (name, False)


def test_a_metric_may_be_made_of_several_means() -> None:
    """F1 = 2 tp / (2 tp + fp + fn), from counts that add up over the set: 2 * 2 / (4 + 1 + 1)."""

    def counts(output: Tensor, target: Tensor) -> Tensor:
        said, true = output[:, 0] > 0, target == 1
        return torch.stack([said & true, said & ~true, ~said & true], dim=1)

    f1 = Metric("F1", counts, lambda mean: 2 * mean[0] / (2 * mean[0] + mean[1] + mean[2]))
    outputs = torch.tensor([[1.0], [1.0], [1.0], [-1.0], [-1.0]])
    targets = torch.tensor([1, 1, 0, 1, 0])
    for size in (1, 2, 5):
        assert evaluate(nn.Flatten(), batches(outputs, targets, size), f1) == pytest.approx(4 / 6)


def test_a_metric_that_is_no_number_is_an_error() -> None:
    nothing = Metric("mine", lambda output, target: output[:, 0] * float("nan"))
    with raises_error(VerificationFailed, "evaluation/non-finite", "test set", "mine", "nan"):
        evaluate(nn.Flatten(), data([1]).val_batches(1), nothing)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (torch.zeros(1), x), lambda x: {"aux": {"deep": [x]}}])
def test_answers_that_are_not_finite_are_an_error(wrap) -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> object:
            return wrap(x.flatten(1) / 0)

    with raises_error(VerificationFailed, "evaluation/non-finite", "test images 0 to 1") as caught:
        evaluate(Broken(), data([1, 1]).val_batches(2), ACCURACY)
    assert caught.value.exit_code == 6


@pytest.mark.parametrize(("held_out", "split"), [(1, "held-out"), (0, "training")])
def test_an_error_names_the_split(held_out: int, split: str) -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) / 0

    toy = replace(data([1, 1]), held_out=torch.arange(held_out))
    with raises_error(VerificationFailed, "evaluation/non-finite", f"{split} images 0 to"):
        validation_metric(Broken(), toy)
