"""Crop and flip: every result is a window of the padded image, perhaps mirrored."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.core import Augment
from compressor.data.augmentation import Augmentation, crop_and_flip, make_augmentation
from compressor.data.sampling import RandomWords, image_keys


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def words(count: int, seed: int = 0) -> RandomWords:
    return image_keys(torch.arange(count), seed, 0)


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


@pytest.mark.parametrize("name", ["flip", "cifar", "imagenet", "trivialaugment", "randaugment"])
@pytest.mark.parametrize("channels", [1, 3])
def test_by_name_each_image_is_changed_by_its_own_key(name: Augment, channels: int) -> None:
    images = torch.randint(0, 256, (6, channels, 12, 10), dtype=torch.uint8, generator=generator())
    change = make_augmentation(name).change
    assert change is not None
    state = torch.get_rng_state()
    first = change(images, words(6), (12, 10))
    assert (first.shape, first.dtype) == (images.shape, torch.uint8)
    assert torch.equal(torch.get_rng_state(), state), "nobody else's random numbers are touched"
    torch.manual_seed(3)
    for index in range(6):
        assert torch.equal(change([images[index]], words(6)[index : index + 1], (12, 10))[0], first[index])
    assert not torch.equal(change(images, words(6, 1), (12, 10)), first)


def test_none_changes_nothing() -> None:
    assert make_augmentation("none") == Augmentation()


def test_flip_mirrors_every_second_time_and_does_no_more() -> None:
    image = torch.arange(12, dtype=torch.uint8).reshape(1, 1, 3, 4)
    change = make_augmentation("flip").change
    assert change is not None
    results = change(image.expand(2000, 1, 3, 4), words(2000), (3, 4))
    same = (results == image).flatten(1).all(1)
    assert (same | (results == image.flip(3)).flatten(1).all(1)).all()
    assert abs(int(same.sum()) - 1000) < 5 * 500**0.5


def test_imagenet_cuts_of_the_stated_size_and_shape() -> None:
    """Of a picture of its own coordinates: 8 to 100 % of its area, 3/4 to 4/3 wide for its height."""
    side = 240
    picture = torch.arange(side, dtype=torch.uint8)
    rows, columns = picture[:, None].expand(side, side), picture[None, :].expand(side, side)
    change = make_augmentation("imagenet").change
    assert change is not None
    cuts = change([torch.stack([rows, columns, rows])] * 200, words(200), (64, 64)).float()
    # Scaling h pixels to 64 makes each step h / 64: between the first and the last it is 63 h / 64, about.
    height = (cuts[:, 0, -1].mean(1) - cuts[:, 0, 0].mean(1)).abs() * 64 / 63
    width = (cuts[:, 1, :, -1].mean(1) - cuts[:, 1, :, 0].mean(1)).abs() * 64 / 63
    area, shape = height * width / side**2, width / height
    assert 0.07 < float(area.min()) < 0.15
    assert 0.8 < float(area.max()) < 1.02
    assert 0.7 < float(shape.min()) < 0.85
    assert 1.2 < float(shape.max()) < 1.42
    mirrored = (cuts[:, 1, :, -1].mean(1) < cuts[:, 1, :, 0].mean(1)).sum()
    assert abs(int(mirrored) - 100) < 5 * 50**0.5
