"""Packed weights: exact on reload, 9/16 of dense float16, and damaged ones refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.core import NMPattern
from compressor.sparsity.compressed_format import pack, pack_weight, unpack, unpack_weight
from compressor.sparsity.nm_masks import magnitude_mask

PATTERNS = [NMPattern(1, 2), NMPattern(2, 4), NMPattern(1, 4), NMPattern(2, 8), NMPattern(4, 8), NMPattern(8, 16)]


def sparse(shape: tuple[int, ...], pattern: NMPattern, dtype: torch.dtype, seed: int) -> torch.Tensor:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return weight.masked_fill(~magnitude_mask(weight, pattern), 0)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(PATTERNS),
    st.integers(1, 5),
    st.integers(1, 3),
    st.lists(st.integers(1, 3), max_size=2),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    st.integers(0, 2**31),
)
def test_exact_on_reload(p: NMPattern, k: int, groups: int, kernel: list[int], dtype: torch.dtype, seed: int) -> None:
    weight = sparse((k, groups * p.m, *kernel), p, dtype, seed)
    weight[0] = 0  # groups with fewer values than the pattern allows
    again = unpack_weight(*pack_weight(weight, p), p)
    assert again.dtype == weight.dtype
    assert torch.equal(again, weight)


def test_two_of_four_takes_nine_sixteenths_of_dense_float16() -> None:
    weight = sparse((64, 64, 3, 3), NMPattern(2, 4), torch.float16, 0)
    values, places = pack_weight(weight, NMPattern(2, 4))
    assert (values.nbytes + places.nbytes) / weight.nbytes == 9 / 16


def test_a_row_by_hand() -> None:
    """(0, 5, 0, 7 | 1, 2, 0, 0): values 5 7 1 2, places 1 3 0 1, two bits each, lowest first: 0b01001101."""
    values, places = pack_weight(torch.tensor([[0.0, 5, 0, 7, 1, 2, 0, 0]]), NMPattern(2, 4))
    assert values.tolist() == [[5, 7, 1, 2]]
    assert places.tolist() == [0b01_00_11_01]


def test_what_is_not_packed_goes_through() -> None:
    tensors = {"a.weight": sparse((2, 4), NMPattern(2, 4), torch.float32, 0), "b": torch.ones(3)}
    stored = pack(tensors, {"a.weight": NMPattern(2, 4)})
    assert sorted(stored) == ["a.weight.nm_places", "a.weight.nm_values", "b"]
    again = unpack(stored, {"a.weight": NMPattern(2, 4)})
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"a.nm_places": None}, "no tensor a.nm_places"),
        ({"a.nm_places": torch.zeros(1, dtype=torch.uint8)}, "a: positions are not increasing"),
        ({"a.nm_places": torch.zeros(9, dtype=torch.uint8)}, "a: 9 bytes of positions for 4 values"),
        ({"a.nm_places": torch.zeros(1)}, "are not packed 2:4"),
        ({"a.nm_values": torch.zeros(3)}, "are not packed 2:4"),
    ],
)
def test_damaged_files_are_refused(change: dict[str, torch.Tensor | None], words: str) -> None:
    stored: dict[str, torch.Tensor | None] = {
        **pack({"a": sparse((1, 8), NMPattern(2, 4), torch.float32, 0)}, {"a": NMPattern(2, 4)}),
        **change,
    }
    with pytest.raises(ValueError, match=words):
        unpack({name: tensor for name, tensor in stored.items() if tensor is not None}, {"a": NMPattern(2, 4)})


def test_a_pattern_from_a_strange_file_is_refused() -> None:
    with pytest.raises(ValueError, match="no pattern 2:3"):
        unpack_weight(torch.zeros(1, 2), torch.zeros(1, dtype=torch.uint8), NMPattern(2, 3))
