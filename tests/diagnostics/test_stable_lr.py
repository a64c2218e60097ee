"""The largest stable learning rate, against a Hessian written out and against descent itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from compressor.core import Task
from compressor.data.tasks import regression
from compressor.diagnostics.stable_lr import stable_learning_rate
from compressor.training.train_settings import OptimizerSettings
from tests.training.toys import STEP, toy_data

LONG = replace(STEP, epochs=200, optimizer=OptimizerSettings("sgd", lr=0.1, momentum=0.0))


class Column:
    """Five images of two numbers, and what a linear network should make of them."""

    x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [3.0, 1.0], [0.0, 0.0]])
    y = torch.tensor([[1.0], [0.0], [2.0], [1.0], [0.0]])
    train_size = 40
    task: Task = regression("mse", "rmse")

    def train_batches(self, batch_size: int, **_: object) -> list[tuple[Tensor, Tensor]]:
        assert batch_size == 1, "a quarter of the batch"
        return [(self.x, self.y)]


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 1, bias=False))


def test_of_least_squares_it_is_two_over_the_largest_eigenvalue() -> None:
    data = Column()
    largest = float(torch.linalg.eigvalsh(2 / 5 * data.x.T @ data.x)[-1])
    found = stable_learning_rate(linear(), data, replace(LONG, batch_size=4), 0)
    assert found is not None
    assert found.curvature == pytest.approx(largest, rel=1e-3)
    assert found.lr == pytest.approx(2 / largest, rel=1e-3)
    assert found.images == 5


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_descent_converges_just_below_it_and_diverges_just_above(momentum: float, nesterov: bool) -> None:
    data = Column()
    step = replace(LONG, batch_size=4, optimizer=OptimizerSettings("sgd", 0.1, momentum, nesterov=nesterov))
    found = stable_learning_rate(linear(), data, step, 0)
    assert found is not None
    losses = []
    for factor in (0.97, 1.03):
        module = linear()
        optimizer = torch.optim.SGD(module.parameters(), lr=factor * found.lr, momentum=momentum, nesterov=nesterov)
        for _ in range(1000):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(module(data.x), data.y)
            loss.backward()
            optimizer.step()
        losses.append(float(loss.detach()))
    best = torch.linalg.lstsq(data.x, data.y).solution
    assert losses[0] == pytest.approx(float(nn.functional.mse_loss(data.x @ best, data.y)), rel=1e-3)
    assert not losses[1] < 1e6


def test_it_leaves_the_network_alone_and_is_not_asked_for_where_it_would_cost_much() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 4))
    before = {name: each.clone() for name, each in module.state_dict().items()}
    first, again = (stable_learning_rate(module, toy_data(), LONG, 0) for _ in range(2))
    assert first == again is not None
    assert all(torch.equal(each, before[name]) for name, each in module.state_dict().items())
    assert stable_learning_rate(module, toy_data(), replace(LONG, epochs=100), 0) is None
    assert (
        stable_learning_rate(module, toy_data(), replace(LONG, optimizer=OptimizerSettings("adam", lr=0.1)), 0) is None
    )
