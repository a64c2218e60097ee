"""Penalties: worked examples, and every closed-form gradient against autograd and finite differences."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compressor.training import penalty_terms as p
from compressor.training.penalty import PenaltyGradient

W = torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.5, -1.0]], dtype=torch.float64)
THIRD = torch.tensor([False, False, True])


def gram_energy(weights: Tensor, leaving: Tensor) -> Tensor:
    rows = weights.flatten(1)
    m = (~leaving).to(rows.dtype)
    return (torch.einsum("ik,jk->ij", rows, rows) * (1 - torch.outer(m, m))).square().sum()


def row_energy(weights: Tensor, leaving: Tensor) -> Tensor:
    return 0.5 * weights[leaving].square().sum()


def departure(weights: Tensor, leaving: Tensor) -> Tensor:
    rows = weights.flatten(1)
    tall = rows if rows.shape[0] >= rows.shape[1] else rows.T
    return torch.linalg.matrix_norm(tall.T @ tall - torch.eye(tall.shape[1], dtype=rows.dtype))


def convolution_departure(weights: Tensor, leaving: Tensor) -> Tensor:
    """By the definition: the inner product of every two filters at every shift, from a padded copy."""
    n, _, high, wide = weights.shape
    padded = F.pad(weights, (wide - 1, wide - 1, high - 1, high - 1))
    total = torch.zeros((), dtype=weights.dtype)
    for y in range(2 * high - 1):
        for x in range(2 * wide - 1):
            shifted = padded[:, :, y : y + high, x : x + wide]
            products = torch.einsum("ncij,mcij->nm", weights, shifted)
            here = torch.eye(n, dtype=weights.dtype) if (y, x) == (high - 1, wide - 1) else 0.0
            total = total + (products - here).square().sum()
    return total.sqrt()


ENERGIES: dict[str, tuple[PenaltyGradient, Callable[[Tensor, Tensor], Tensor]]] = {
    "gram, sum": (p.gram_sum, lambda w, gone: 0.5 * gram_energy(w, gone)),
    "gram, mean": (p.gram_mean, lambda w, gone: gram_energy(w, gone) / len(w) ** 2),
    "decay": (p.decay, lambda w, gone: 0.5 * w.square().sum()),
    "decay of what leaves": (p.decay_pruned, row_energy),
    "decay of what stays": (p.decay_kept, lambda w, gone: row_energy(w, ~gone)),
    "group lasso": (p.group_lasso, lambda w, gone: w.flatten(1).norm(dim=1).sum()),
    "KernOrth": (p.kernel_orthogonality, departure),
    "OrthConv": (p.convolution_orthogonality, convolution_departure),
}
SHAPES = [(4, 3, 3, 3), (5, 2, 1, 2), (6, 1, 3, 2), (3, 40, 3, 3), (7, 1, 2, 2)]


@pytest.mark.parametrize("name", ENERGIES)
@pytest.mark.parametrize("shape", SHAPES)
@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_gradient_is_that_of_the_formula(name: str, shape: tuple[int, ...], seed: int) -> None:
    """Against autograd, and along a random direction against the central difference."""
    pull, energy = ENERGIES[name]
    random = torch.Generator().manual_seed(seed)
    weights = torch.randn(shape, dtype=torch.float64, generator=random)
    leaving = torch.rand(shape[0], generator=random) < 0.5
    before = weights.clone()
    found = pull(weights, leaving)
    assert torch.equal(weights, before), "the weights themselves are not written to"
    assert found.shape == weights.shape

    traced = weights.clone().requires_grad_()
    energy(traced, leaving).backward()
    assert traced.grad is not None
    torch.testing.assert_close(found, traced.grad, rtol=1e-9, atol=1e-10)

    direction = torch.randn(shape, dtype=torch.float64, generator=random)
    step = 1e-6
    slope = (energy(weights + step * direction, leaving) - energy(weights - step * direction, leaving)) / (2 * step)
    torch.testing.assert_close((found * direction).sum(), slope, rtol=1e-4, atol=1e-5)


def test_kept_filters_are_pulled_away_from_those_that_leave() -> None:
    gram = torch.tensor([[5.0, 11.0, -1.5], [11.0, 25.0, -2.5], [-1.5, -2.5, 1.25]])
    assert torch.equal((W @ W.T).float(), gram)
    squared = 2 * p.gram_sum(W, THIRD)  # of |.|_F^2
    assert torch.equal(squared, torch.tensor([[-3.0, 6.0], [-5.0, 10.0], [-33.5, -57.0]], dtype=torch.float64))
    # A form of degree four: <W, gradient> is four times its value.
    assert (W * squared).sum() / 4 == 18.5625
    assert (W * p.gram_mean(W, THIRD)).sum().item() / 4 == pytest.approx(2.0625)
    assert 1000 * 0.5 * (W * p.gram_mean(W, THIRD)).sum().item() / 4 == pytest.approx(1031.25)


def test_pull_on_what_leaves() -> None:
    expected = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.25, -0.5]], dtype=torch.float64)
    assert torch.equal(0.5 * p.decay_pruned(W, THIRD), expected)
    gone = torch.tensor([True])
    assert 0.5 * p.decay_pruned(torch.tensor([1.2]), gone).item() == pytest.approx(0.6)
    assert 0.5 * p.decay_pruned(torch.tensor([-0.3]), gone).item() == pytest.approx(-0.15)


def test_the_gram_matrix_of_a_convolution() -> None:
    kernel = torch.arange(1, 9, dtype=torch.float64).view(2, 1, 2, 2) / 10
    pulled = p.gram_sum(kernel, torch.tensor([False, True]))
    assert (kernel * pulled).sum().item() / 2 == pytest.approx(4.0076)  # 2 * 0.49 + 3.0276


@pytest.mark.parametrize(("width", "factor"), [(16, 3.906), (32, 0.977), (64, 0.244), (512, 0.0038)])
def test_the_released_scale_depends_on_the_width(width: int, factor: float) -> None:
    weights = torch.randn(width, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    leaving = torch.arange(width) < width // 2
    ratio = 1000 * p.gram_mean(weights, leaving) / (2 * p.gram_sum(weights, leaving))
    torch.testing.assert_close(ratio, torch.full_like(ratio, factor), rtol=2e-2, atol=0)


def test_nothing_that_leaves_is_nothing_to_decorrelate() -> None:
    nobody = torch.zeros(3, dtype=torch.bool)
    assert not p.gram_sum(W, nobody).any()
    assert not p.decay_pruned(W, nobody).any()


def test_a_zero_filter_has_no_lasso_gradient() -> None:
    weights = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert torch.equal(p.group_lasso(weights, torch.zeros(2, dtype=torch.bool)), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_a_perfect_delta_kernel_is_left_in_peace() -> None:
    """With shifts of two pixels it scores 1.0 instead of 0."""
    delta = torch.zeros(3, 3, 3, 3, dtype=torch.float64)
    delta[torch.arange(3), torch.arange(3), 1, 1] = 1.0
    nobody = torch.zeros(3, dtype=torch.bool)
    assert convolution_departure(delta, nobody) == 0
    assert not p.convolution_orthogonality(delta, nobody).any()
    assert not p.kernel_orthogonality(torch.eye(4), torch.zeros(4, dtype=torch.bool)).any()


# ---------------------------------------------------------------- strengths


def test_the_published_growth() -> None:
    """1e-4 every 10 iterations to 1, then 10,000 more; 0.01 after a hundred updates, twice that every 5."""
    whole = 110_000
    assert p.growth_iterations(1e-4, 10, 1.0) + 10_000 == whole
    grow = partial(p.stepwise_growth, growth=1e-4, interval=10, ceiling=1.0, hold=10_000)
    assert grow(100_000, whole) == 1.0
    assert grow(99_999, whole) == pytest.approx(0.9999)
    assert grow(109_999, whole) == 1.0
    assert [grow(each, whole) for each in (0, 9, 10, 100, 1000, 10_000)] == pytest.approx([0, 0, 1e-4, 1e-3, 1e-2, 0.1])
    assert p.growth_iterations(1e-4, 5, 1.0) + 40_000 == 90_000
    fast = partial(p.stepwise_growth, growth=1e-4, interval=5, ceiling=1.0, hold=40_000)
    assert [fast(each, 90_000) for each in (100, 1000, 10_000)] == pytest.approx([0.002, 0.02, 0.2])


def test_a_second_growth_goes_on_where_the_first_one_ended() -> None:
    pick = partial(p.stepwise_growth, growth=1e-5, interval=10, ceiling=0.01)
    assert p.growth_iterations(1e-5, 10, 0.01) == 10_000
    assert pick(9_999, 10_000) == pytest.approx(0.01, rel=2e-3)
    whole = p.growth_iterations(1e-4, 10, 1.0, start=0.01) + 10_000
    assert p.stepwise_growth(0, whole, growth=1e-4, interval=10, ceiling=1.0, hold=10_000, start=0.01) == 0.01


@settings(deadline=None)
@given(iterations=st.integers(1, 3000))
def test_a_shorter_training_goes_through_the_same_strengths(iterations: int) -> None:
    grow = partial(p.stepwise_growth, growth=1e-4, interval=10, ceiling=1.0, hold=10_000, scale=3.0)
    values = [grow(each, iterations) for each in range(iterations)]
    assert values == sorted(values)
    assert values[0] == 0
    assert values[-1] <= 3.0
    if iterations >= 20:
        assert values[-1] == 3.0, "the ceiling is reached"
        held = sum(value == 3.0 for value in values) / iterations
        assert held == pytest.approx(1 / 11, abs=1.5 / iterations)


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 3000))
def test_every_layer_is_zero_before_the_end(layers: int, iterations: int) -> None:
    zero_from = partial(p.zero_start, growth=100_000, hold=10_000)
    starts = [zero_from(layer, layers, iterations) for layer in range(layers)]
    assert starts == sorted(starts)
    assert max(starts) <= iterations - 1
    grow = partial(p.stepwise_growth, growth=1e-4, interval=10, ceiling=1.0, hold=10_000)
    assert starts[0] == iterations - 1 or grow(starts[0], iterations) == 1.0, "no layer before the strengths hold"


def test_the_published_zeroing() -> None:
    zero_from = partial(p.zero_start, growth=100_000, hold=10_000)
    assert [zero_from(layer, 27, 110_000) for layer in (0, 1, 26)] == [100_100, 100_200, 102_700]
