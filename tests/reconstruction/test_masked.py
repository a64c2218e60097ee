"""Weights under a mask: exact refits, and the two searches for masks, against brute force and hand-computed numbers."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compressor.core import NMPattern
from compressor.reconstruction.masked import _jointly as jointly
from compressor.reconstruction.masked import masked_solver, optimal_brain, sparsegpt
from compressor.reconstruction.moments import Statistics

CORRELATED = torch.eye(4, dtype=torch.float64) + 0.5
ROW = torch.tensor([[1.0, 2, 3, 4]], dtype=torch.float64)
TWO_OF_FOUR = NMPattern(2, 4)


def loss(dense: Tensor, weight: Tensor, matrix: Tensor) -> float:
    return float(((dense - weight) @ matrix * (dense - weight)).sum())


def refit(dense: Tensor, mask: Tensor, matrix: Tensor, start: Tensor | None = None) -> Tensor:
    zeros = torch.zeros(1, matrix.shape[0], dtype=torch.float64)
    rows = torch.zeros(1, len(dense), dtype=torch.float64)
    seen = Statistics(1, zeros, rows, matrix.unsqueeze(0), (dense @ matrix).unsqueeze(0), rows)
    begin = dense * mask if start is None else start
    return masked_solver(mask.unsqueeze(0))(seen, begin.unsqueeze(0))(0.0)[0]


def test_check_7_sparsegpt_is_optimal_where_small_weights_come_first() -> None:
    mask, weight = sparsegpt(ROW, CORRELATED, TWO_OF_FOUR)
    assert mask.tolist() == [[False, False, True, True]]
    torch.testing.assert_close(weight, torch.tensor([[0, 0, 3.75, 4.75]], dtype=torch.float64))
    assert loss(ROW, weight, CORRELATED) == pytest.approx(7.25)
    assert loss(ROW, ROW * mask, CORRELATED) == pytest.approx(9.5)


def test_check_7_mirrored_only_the_refit_compensates() -> None:
    row = ROW.flip(1)
    mask, weight = sparsegpt(row, CORRELATED, TWO_OF_FOUR)
    assert mask.tolist() == [[True, True, False, False]]
    assert loss(row, weight, CORRELATED) == pytest.approx(9.5)
    solved = refit(row, mask, CORRELATED)
    torch.testing.assert_close(solved, torch.tensor([[4.75, 3.75, 0, 0]], dtype=torch.float64))
    assert loss(row, solved, CORRELATED) == pytest.approx(7.25)


def test_check_7_uncorrelated_inputs_are_pruned_by_their_energy() -> None:
    matrix = torch.diag(torch.tensor([16.0, 4, 1, 0.25], dtype=torch.float64))
    for search in (sparsegpt, optimal_brain):
        mask, weight = search(ROW, matrix, TWO_OF_FOUR)
        assert mask.tolist() == [[True, True, False, False]]
        assert loss(ROW, weight, matrix) == pytest.approx(13)
        torch.testing.assert_close(weight, ROW * mask)


def problem(seed: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=random, dtype=torch.float64)
    x = torch.randn(columns, 3 * columns, generator=random, dtype=torch.float64)
    x[1:] += 0.7 * x[:-1]
    return weight, x @ x.T / x.shape[1]


@given(st.integers(0, 2**32 - 1), st.sampled_from([TWO_OF_FOUR, NMPattern(1, 4), 0.5, 0.25]))
@settings(max_examples=20, deadline=None)
def test_the_refit_is_never_worse_than_the_sweep_or_the_slice_on_the_same_mask(
    seed: int, budget: NMPattern | float
) -> None:
    weight, matrix = problem(seed, 3, 8)
    mask, swept = sparsegpt(weight, matrix, budget)
    solved = refit(weight, mask, matrix)
    assert not solved[~mask].any()
    assert not swept[~mask].any()
    assert loss(weight, solved, matrix) <= loss(weight, swept, matrix) + 1e-9
    assert loss(weight, solved, matrix) <= loss(weight, weight * mask, matrix) + 1e-9
    gradient = ((weight - solved) @ matrix)[mask]
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-9)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_the_first_removal_of_the_exact_search_is_the_best_of_all(seed: int) -> None:
    weight, matrix = problem(seed, 1, 4)
    mask, solved = optimal_brain(weight, matrix, 0.75)
    masks = (torch.arange(4) != column for column in range(4))
    best = min(loss(weight, refit(weight, other.unsqueeze(0), matrix), matrix) for other in masks)
    assert loss(weight, solved, matrix) == pytest.approx(best, rel=1e-6)
    assert int(mask.sum()) == 3


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_the_exact_search_keeps_the_pattern_and_comes_close_to_all_pairs(seed: int) -> None:
    weight, matrix = problem(seed, 2, 4)
    mask, solved = optimal_brain(weight, matrix, TWO_OF_FOUR)
    assert mask.sum(1).tolist() == [2, 2]
    best = 0.0
    for row in weight.split(1):
        pairs = [torch.tensor([[place in pair for place in range(4)]]) for pair in itertools.combinations(range(4), 2)]
        best += min(loss(row, refit(row, pair, matrix), matrix) for pair in pairs)
    assert best - 1e-9 <= loss(weight, solved, matrix) <= loss(weight, weight * mask, matrix) + 1e-9


def test_unstructured_masks_keep_the_share_asked_for_over_all_rows() -> None:
    weight, matrix = problem(3, 6, 8)
    weight[0] *= 100
    for search in (sparsegpt, optimal_brain):
        mask, _ = search(weight, matrix, 0.25)
        assert int(mask.sum()) == 12
        assert int(mask[0].sum()) > 4  # the row that matters most keeps more


def test_conjugate_gradients_solve_every_row_on_its_support() -> None:
    weight, matrix = problem(5, 7, 40)
    mask = torch.rand(7, 40, generator=torch.Generator().manual_seed(1)) < 0.5
    gradient = weight @ matrix - (weight * mask) @ matrix
    change = jointly(matrix, gradient, mask)
    torch.testing.assert_close(weight * mask + change, refit(weight, mask, matrix), rtol=1e-4, atol=1e-5)
    assert not change[~mask].any()


def test_dead_inputs_are_pruned_and_do_no_harm() -> None:
    matrix = torch.diag(torch.tensor([1.0, 0, 1, 1], dtype=torch.float64))
    mask, weight = sparsegpt(torch.tensor([[1.0, 50, 2, 3]], dtype=torch.float64), matrix, TWO_OF_FOUR)
    assert mask.tolist() == [[False, False, True, True]]
    assert weight.isfinite().all()
