from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compressor.reconstruction.moments import Moments, Statistics
from compressor.reconstruction.rectified import RectifiedSamples, fit_rectified
from compressor.reconstruction.solve import cholesky_solver, intercept


def problem(seed: int) -> tuple[RectifiedSamples, Statistics, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(200, 4, generator=random, dtype=torch.float64)
    scale = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    offset = torch.randn(200, 3, generator=random, dtype=torch.float64)
    outputs = torch.randn(200, 3, generator=random, dtype=torch.float64) + x[:, :3]
    samples = RectifiedSamples(x, outputs * scale + offset, offset, scale)
    moments = Moments()
    moments.add(x.unsqueeze(1), outputs.unsqueeze(1))
    statistics = moments.statistics()
    weight = torch.zeros(1, 3, 4, dtype=torch.float64)
    return samples, statistics, weight, cholesky_solver(statistics, weight)(0.0)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_no_turn_raises_the_error_that_the_relu_lets_through(seed: int) -> None:
    samples, statistics, weight, solved = problem(seed)
    start = solved, intercept(statistics, solved)
    losses = [samples.loss(start[0][0], start[1][0])]
    for turns in (1, 2, 8):
        turned = fit_rectified(samples, statistics, start, weight, ridge=0.0, solver=cholesky_solver, turns=turns)
        losses.append(samples.loss(turned[0][0], turned[1][0]))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_the_loss_by_hand() -> None:
    one = torch.ones(3, 1)
    samples = RectifiedSamples(
        one, torch.tensor([[2.0], [-1.0], [-1.0]]), torch.tensor([[0.0], [0.0], [-5.0]]), torch.ones(1)
    )
    # 3, 3 and -2 against 2, -1 and -1: errors of 1, of 3 that comes through, and none
    assert samples.loss(torch.tensor([[1.0]]), torch.tensor([2.0])) == (1 + 9 + 0) / 3


def test_nothing_moves_where_the_relu_lets_everything_through() -> None:
    samples, statistics, weight, solved = problem(1)
    shift = samples.dense.abs().max() + 1
    positive = RectifiedSamples(samples.x, samples.dense + shift, samples.offset + shift, samples.scale)
    start = solved, intercept(statistics, solved)
    turned = fit_rectified(positive, statistics, start, weight, ridge=0.0, solver=cholesky_solver)
    torch.testing.assert_close(turned[0], solved)
    torch.testing.assert_close(turned[1], start[1])
