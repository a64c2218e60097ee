"""Crop and flip: every result is a window of the padded image, perhaps mirrored."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.training.augment import crop_and_flip
from compressor.training.order import Words, keys


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def words(count: int, seed: int = 0) -> Words:
    return keys(torch.arange(count), seed, 0)


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 4),
    channels=st.sampled_from([1, 3]),
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    padding=st.integers(0, 4),
    seed=st.integers(0, 2**32),
)
def test_each_result_is_one_of_the_possible_windows(
    count: int, channels: int, height: int, width: int, padding: int, seed: int
) -> None:
    images = torch.randint(1, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator(seed))
    before = images.clone()
    result = crop_and_flip(images, words(count, seed), padding)
    assert torch.equal(images, before)
    assert result.dtype == torch.uint8
    assert result.shape == images.shape
    padded = F.pad(images, (padding,) * 4)
    for index in range(count):
        windows = [
            padded[index, :, top : top + height, left : left + width]
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
        ]
        assert any(torch.equal(result[index], each) or torch.equal(result[index], each.flip(2)) for each in windows)


def test_all_places_and_both_directions_come_up_equally_often() -> None:
    image = torch.arange(1, 26, dtype=torch.uint8).reshape(1, 1, 5, 5)
    results = crop_and_flip(image.expand(20_000, 1, 5, 5), words(20_000), 1)
    seen, counts = results.flatten(1).unique(dim=0, return_counts=True)
    assert len(seen) == 9 * 2
    expected = 20_000 / 18
    assert ((counts - expected).abs() < 5 * expected**0.5).all()


def test_what_happens_to_an_image_depends_on_its_key_alone() -> None:
    images = torch.randint(0, 256, (8, 3, 6, 6), dtype=torch.uint8, generator=generator())
    first = crop_and_flip(images, words(8, 5))
    torch.manual_seed(123)
    assert torch.equal(crop_and_flip(images, words(8, 5)), first)
    assert torch.equal(torch.cat([crop_and_flip(images[i : i + 1], words(8, 5)[i : i + 1]) for i in range(8)]), first)
    assert not torch.equal(crop_and_flip(images, words(8, 6)), first)
