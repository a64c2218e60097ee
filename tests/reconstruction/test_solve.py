"""The formulas, by hand: the checks of the specification and independent ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compressor.reconstruction.moments import Moments, Statistics
from compressor.reconstruction.solve import (
    cholesky_solver,
    fit,
    intercept,
    spectral_solver,
    squared_error,
)


def statistics(x: list[list[float]] | Tensor, y: list[list[float]] | Tensor, parts: int = 1) -> Statistics:
    """Moments of samples given as columns (n, R) and (o, R)."""
    x_nR, y_oR = (torch.as_tensor(value, dtype=torch.float64) for value in (x, y))
    moments = Moments()
    for x_part, y_part in zip(x_nR.T.tensor_split(parts), y_oR.T.tensor_split(parts), strict=True):
        moments.add(x_part.unsqueeze(1), y_part.unsqueeze(1))
    return moments.statistics()


def gram(matrix: list[list[float]], yx: list[list[float]]) -> Statistics:
    xx = torch.tensor(matrix, dtype=torch.float64).unsqueeze(0)
    cross = torch.tensor(yx, dtype=torch.float64).unsqueeze(0)
    zeros = torch.zeros(1, xx.shape[-1], dtype=torch.float64)
    yy = torch.zeros(1, cross.shape[1], dtype=torch.float64)
    return Statistics(1, zeros, torch.zeros_like(yy), xx, cross, yy)


def weights(*rows: list[float]) -> Tensor:
    return torch.tensor([rows], dtype=torch.float64)


X1 = [0.0, 1, 2, 3]
X2 = [3.0, 5, 7, 9]
Y = [x1 + x2 + 5 for x1, x2 in zip(X1, X2, strict=True)]


def test_check_1_an_affine_fit_is_exact_where_the_removed_channel_is_an_affine_copy() -> None:
    seen = statistics([X1], [Y])
    solved = fit(seen, seen, weights([1.0]), ridges=(0.0,))
    assert solved.weight.item() == pytest.approx(3)
    assert solved.bias is not None
    assert solved.bias.item() == pytest.approx(8)
    assert solved.error_after == pytest.approx(0, abs=1e-12)
    variance = float(seen.yy)
    assert solved.error_before * variance == pytest.approx(5)  # slice with the mean compensated
    assert float(squared_error(seen, weights([1.0]), torch.full((1, 1), 5.0))) == pytest.approx(41)  # slice alone
    without_bias = statistics([X1], [[y - 5 for y in Y]])
    uncentred = fit(without_bias, without_bias, weights([1.0]), has_intercept=False, ridges=(0.0,))
    assert uncentred.weight.item() == pytest.approx(30 / 7)
    assert float(squared_error(without_bias.uncentred(), uncentred.weight, None)) == pytest.approx(3.2142857)


def test_check_2_what_is_uncorrelated_goes_into_the_mean() -> None:
    x1, x2 = [-1.0, -1, 1, 1], [2.0, 4, 2, 4]
    seen = statistics([x1], [[3 * a + 0.5 * b for a, b in zip(x1, x2, strict=True)]])
    weight = spectral_solver(seen, weights([3.0]))(0.0)
    bias = intercept(seen, weight)
    assert (weight.item(), bias.item()) == pytest.approx((3, 1.5))
    assert float(squared_error(seen, weight, bias)) == pytest.approx(0.25)


@pytest.mark.parametrize("solver", [cholesky_solver, spectral_solver])
@pytest.mark.parametrize(("ridge", "expected"), [(0.0, 1.5), (1.0, 1.25), (1e12, 1.0)])  # lambda 0, 2 and infinity
def test_checks_3_and_4_the_ridge_pulls_towards_the_slice(solver, ridge: float, expected: float) -> None:  # type: ignore[no-untyped-def]
    seen = gram([[2.0]], [[3.0]])  # w G at the kept channel, w = (1, 1), G = [[2, 1], [1, 2]]
    assert solver(seen, weights([1.0]))(ridge).item() == pytest.approx(expected)


def test_check_5_refit_of_several_readers_after_removing_channels() -> None:
    matrix = np.array([[4.0, 2, 0], [2, 3, 1], [0, 1, 2]])
    readers = np.array([[1.0, 1, 1], [0, 1, -1]])
    for removed, expected, loss in (
        ([2], [[0.75, 1.5], [0.25, 0.5]], 3.0),
        ([1, 2], [[1.5], [0.5]], 8.0),
        ([0], [[1.8, 0.6], [1, -1]], 2.4),
    ):
        kept = [index for index in range(3) if index not in removed]
        seen = gram(matrix[np.ix_(kept, kept)].tolist(), (readers @ matrix)[:, kept].tolist())
        solved = cholesky_solver(seen, torch.from_numpy(readers[:, kept]).unsqueeze(0))(0.0)
        np.testing.assert_allclose(solved[0].numpy(), expected)
        yy = torch.from_numpy((readers @ matrix * readers).sum(1)).unsqueeze(0)
        error = squared_error(Statistics(1, seen.mean_x, seen.mean_y, seen.xx, seen.yx, yy), solved, None)
        assert float(error.sum()) == pytest.approx(loss)


def test_check_14_slim_inputs_that_carry_earlier_errors() -> None:
    seen = statistics([[1.0, 2, 3, 4]], [[2.0, 6, 6, 10]])
    weight = cholesky_solver(seen, weights([1.0]))(0.0)
    bias = intercept(seen, weight)
    assert weight.item() == pytest.approx(2.4)
    assert bias.item() == pytest.approx(0, abs=1e-12)
    assert float(squared_error(seen, weight, bias)) == pytest.approx(0.8)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-4, 1e-2, 1.0]))
@settings(max_examples=20, deadline=None)
def test_check_12_nothing_removed_leaves_the_weight_at_any_ridge(seed: int, ridge: float) -> None:
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(1, 3, 5, generator=random, dtype=torch.float64)
    x = torch.randn(5, 40, generator=random, dtype=torch.float64)
    seen = statistics(x, weight[0] @ x)
    for solver in (cholesky_solver, spectral_solver):
        torch.testing.assert_close(solver(seen, weight)(ridge), weight, rtol=1e-9, atol=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.sampled_from([0.0, 1e-3, 0.1, 3.0]))
@settings(max_examples=30, deadline=None)
def test_both_solvers_agree_and_solve_the_normal_equations(seed: int, columns: int, ridge: float) -> None:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(columns, 60, generator=random, dtype=torch.float64) + 3
    y = torch.randn(2, 60, generator=random, dtype=torch.float64) - 1
    start = torch.randn(1, 2, columns, generator=random, dtype=torch.float64)
    seen = statistics(x, y, parts=3)
    strength = ridge * float(seen.xx.diagonal(dim1=-2, dim2=-1).mean())
    solved = cholesky_solver(seen, start)(ridge)
    torch.testing.assert_close(solved, spectral_solver(seen, start)(ridge), rtol=1e-7, atol=1e-9)
    gradient = solved @ seen.xx - seen.yx + strength * (solved - start)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-9)


def test_directions_without_variance_keep_the_slice() -> None:
    x = torch.tensor([[0.0, 1, 2, 3], [0, 1, 2, 3]])  # rank one
    start = weights([5.0, 1.0])
    solved = cholesky_solver(statistics(x, 8 * x[:1]), start)(0.0)
    torch.testing.assert_close(solved, weights([6.0, 2.0]))  # the least change that gives 8 together
    constant = statistics(torch.ones(2, 4), torch.ones(1, 4))
    torch.testing.assert_close(cholesky_solver(constant, start)(1e-4), start)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_streamed_moments_are_those_of_all_samples_even_at_large_means(seed: int, parts: int) -> None:
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(3, 24)) + 1e6, random.normal(size=(2, 24)) - 1e6
    seen = statistics(torch.from_numpy(x), torch.from_numpy(y), parts)
    both = np.cov(np.concatenate([y, x]), bias=True)
    np.testing.assert_allclose(seen.xx[0].numpy(), both[2:, 2:], atol=1e-8)
    np.testing.assert_allclose(seen.yx[0].numpy(), both[:2, 2:], atol=1e-8)
    np.testing.assert_allclose(seen.yy[0].numpy(), np.diag(both)[:2], atol=1e-8)
    np.testing.assert_allclose(seen.mean_x[0].numpy(), x.mean(1))


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=20, deadline=None)
def test_the_held_out_error_is_that_of_the_samples_and_never_above_mean_compensation(seed: int, biased: bool) -> None:
    random = torch.Generator().manual_seed(seed)
    truth = torch.randn(2, 6, generator=random, dtype=torch.float64)
    x = torch.randn(6, 50, generator=random, dtype=torch.float64) + 1
    y = truth @ x + torch.randn(2, 50, generator=random, dtype=torch.float64)
    start = truth[:, :4].unsqueeze(0)
    train, holdout = statistics(x[:4, :30], y[:, :30]), statistics(x[:4, 30:], y[:, 30:])
    solved = fit(train, holdout, start, has_intercept=biased)
    bias = 0 if solved.bias is None else solved.bias.T
    residual = solved.weight[0] @ x[:4, 30:] + bias - y[:, 30:]
    scale = float((holdout if biased else holdout.uncentred()).yy.sum())
    assert solved.error_after == pytest.approx(float(residual.square().mean(1).sum()) / scale, rel=1e-9)
    assert solved.error_after <= solved.error_before
    assert math.isinf(solved.ridge) == (solved.error_after == solved.error_before)


def test_without_held_out_samples_only_means_are_compensated() -> None:
    solved = fit(statistics([X1], [Y]), None, weights([1.0]))
    assert math.isinf(solved.ridge)
    assert solved.weight.item() == 1
    assert solved.bias is not None
    assert solved.bias.item() == pytest.approx(np.mean(Y) - np.mean(X1))


def test_groups_are_separate_problems() -> None:
    random = torch.Generator().manual_seed(1)
    x = torch.randn(50, 3, 2, generator=random, dtype=torch.float64)
    y = torch.randn(50, 3, 4, generator=random, dtype=torch.float64)
    start = torch.zeros(3, 4, 2, dtype=torch.float64)
    together = Moments()
    together.add(x, y)
    solved = cholesky_solver(together.statistics(), start)(1e-2)
    for group in range(3):
        alone = statistics(x[:, group].T, y[:, group].T)
        torch.testing.assert_close(solved[group], cholesky_solver(alone, start[:1])(1e-2)[0])


def test_merged_statistics_are_those_of_all_samples() -> None:
    x, y = torch.randn(3, 50, dtype=torch.float64), torch.randn(2, 50, dtype=torch.float64)
    merged = statistics(x[:, :20], y[:, :20]).merged(statistics(x[:, 20:], y[:, 20:]))
    together = statistics(x, y)
    assert merged.count == together.count
    for name in ("mean_x", "mean_y", "xx", "yx", "yy"):
        torch.testing.assert_close(getattr(merged, name), getattr(together, name))


def test_check_8_a_depthwise_channel_has_a_scale_and_a_bias() -> None:
    seen = statistics([[0.0, 1, 2]], [[1.0, 3, 5]])
    solved = fit(seen, seen, weights([1.0]), ridges=(0.0,))
    assert solved.bias is not None
    assert (solved.weight.item(), solved.bias.item()) == pytest.approx((2, 1))
