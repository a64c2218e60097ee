"""Batch normalisation over parts: what torch computes for the whole batch."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from compressor.training.distributed.sync_batchnorm import synchronized_batchnorm

PARTS = 2


def averaging() -> Callable[[Tensor], Tensor]:
    """The mean over PARTS threads that stand for processes."""
    barrier, given = threading.Barrier(PARTS), dict[int, Tensor]()

    def average(value: Tensor) -> Tensor:
        given[threading.get_ident()] = value
        barrier.wait(timeout=30)
        mean = torch.stack(list(given.values())).mean(dim=0)
        barrier.wait(timeout=30)
        return mean

    return average


def network(norm: type[nn.Module], **options: object) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 5, 3), norm(5, **options), nn.ReLU(), nn.Conv2d(5, 3, 3), norm(3, **options))


@pytest.mark.parametrize(
    ("norm", "options"),
    [
        (nn.BatchNorm2d, {}),
        (nn.BatchNorm2d, {"affine": False}),
        (nn.BatchNorm2d, {"momentum": None}),
        (nn.BatchNorm2d, {"track_running_stats": False}),
        (BatchNormAct2d, {}),
    ],
)
def test_parts_together_are_the_whole_batch(norm: type[nn.Module], options: dict[str, object]) -> None:
    """Outputs, gradients of the mean loss, and running statistics; images far from zero, where squares lose digits."""
    whole = network(norm, **options).train()
    parts = [copy.deepcopy(whole) for _ in range(PARTS)]
    images = torch.randn(6, 2, 9, 9) * torch.linspace(0.5, 2, 6)[:, None, None, None] + 30
    targets = torch.randn(6, 3, 5, 5)

    def loss(forward: Callable[[Tensor], Tensor], images: Tensor, targets: Tensor) -> Tensor:
        return ((forward(images) - targets) ** 2).mean()

    average = averaging()

    def train(rank: int) -> None:
        rows = slice(3 * rank, 3 * rank + 3)
        loss(synchronized_batchnorm(parts[rank], average, PARTS), images[rows], targets[rows]).backward()

    loss(whole, images, targets).backward()
    with ThreadPoolExecutor(PARTS) as pool:
        list(pool.map(train, range(PARTS)))
    for expected, *found in zip(whole.parameters(), *(each.parameters() for each in parts), strict=True):
        mean = torch.stack([each.grad for each in found]).mean(dim=0)
        torch.testing.assert_close(mean, expected.grad, rtol=1e-3, atol=1e-5)
    for name, expected in whole.state_dict().items():
        for part in parts:
            torch.testing.assert_close(part.state_dict()[name], expected, rtol=1e-4, atol=1e-5)


def test_layers_that_do_not_train_use_their_own_statistics() -> None:
    module = network(nn.BatchNorm2d).eval()
    images = torch.randn(4, 2, 9, 9)

    def never(value: Tensor) -> Tensor:
        raise AssertionError("there is nothing to average")

    assert torch.equal(synchronized_batchnorm(module, never, PARTS)(images), module(images))
