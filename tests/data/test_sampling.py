"""Random words and orders: reproducible, independent of how images are grouped, and evenly spread."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compressor.data.sampling import _mixed, hold_out, image_keys, process_share, shuffled, spread_rows, uniform


def test_the_mixing_function_is_splitmix64() -> None:
    """The first outputs of the published generator seeded with 1234567: state += 0x9e3779b97f4a7c15, then mixed."""
    states = np.uint64(1234567) + np.uint64(0x9E3779B97F4A7C15) * np.arange(1, 4, dtype=np.uint64)
    assert _mixed(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_numbers_are_uniform_and_independent() -> None:
    draws = uniform(image_keys(torch.arange(20_000), 3, 1), 4)
    assert draws.shape == (4, 20_000)
    assert 0 <= float(draws.min()) < float(draws.max()) < 1
    counts = torch.stack([torch.histc(each, 10, 0, 1) for each in draws])
    assert ((counts - 2000).abs() < 5 * (2000 * 0.9) ** 0.5).all()
    shifted = torch.cat([draws[:, 1:], draws[:, :1]], dim=1)  # against each other, and against the next image's
    correlations = torch.corrcoef(torch.cat([draws, shifted])) - torch.eye(8)
    assert float(correlations.abs().max()) < 5 / 20_000**0.5


@given(seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 500), rows=st.lists(st.integers(0, 2**31), max_size=9))
def test_a_key_is_the_images_own(seed: int, epoch: int, rows: list[int]) -> None:
    together = image_keys(torch.tensor(rows, dtype=torch.int64), seed, epoch)
    alone = [image_keys(torch.tensor([row]), seed, epoch)[0] for row in rows]
    assert together.tolist() == alone
    assert len(set(alone)) == len(set(rows))


@given(size=st.integers(0, 40), world=st.integers(1, 9))
def test_shares_are_contiguous_and_even(size: int, world: int) -> None:
    batch = torch.arange(size)
    order = torch.cat([torch.tensor([-1, -2, -3]), batch, torch.tensor([-4])])
    shares = [order[process_share(3, size, (rank, world))] for rank in range(world)]
    assert torch.equal(torch.cat(shares), batch)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("rows", [torch.arange(50), torch.arange(50) * 3])
def test_an_order_has_every_row_once_and_is_its_epochs_own(rows: torch.Tensor) -> None:
    orders = [shuffled(rows, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert all(torch.equal(each.sort().values, rows) for each in orders)
    assert torch.equal(orders[0], orders[3])
    assert len({tuple(each.tolist()) for each in orders}) == 3


@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any),
    share=st.floats(0.01, 0.99),
)
def test_every_class_gives_its_share_and_keeps_one(counts: list[int], share: float) -> None:
    classes = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    classes = classes[torch.randperm(len(classes), generator=torch.Generator().manual_seed(1))]
    rows = hold_out(classes, share)
    assert rows.tolist() == sorted(set(rows.tolist()))
    given_up = classes[rows].bincount(minlength=len(counts)).tolist()
    assert given_up == [min(round(share * count), max(count - 1, 0)) for count in counts]
    torch.manual_seed(0)
    assert torch.equal(hold_out(classes, share), rows)


@given(count=st.integers(0, 500), most=st.none() | st.integers(1, 600))
def test_rows_at_equal_distances(count: int, most: int | None) -> None:
    rows = spread_rows(count, most).tolist()
    assert len(rows) == min(count, most or count)
    steps = {after - before for before, after in itertools.pairwise([*rows, count])} if rows else {1}
    assert rows[:1] in ([], [0])
    assert min(steps) >= 1
    assert max(steps) - min(steps) <= 1


def test_held_out_rows_are_drawn_at_random() -> None:
    """Of 1000 images of one class, the held-out ones lie anywhere: their mean place is 500 +- 5 standard errors."""
    rows = hold_out(torch.zeros(1000), 0.2)
    assert len(rows) == 200
    assert abs(float(rows.double().mean()) - 499.5) < 5 * 1000 / 12**0.5 / 200**0.5
