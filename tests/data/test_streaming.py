"""Splits that stay on disk: the same batches as in memory, whatever the number of workers."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from failures import raises_error
from PIL import Image
from torchvision import transforms

import compressor.data.parquet as parquet
import compressor.data.splits as splits
from compressor.core import ModelSpec, one_image
from compressor.data.data_settings import DataSettings
from compressor.data.image_data import ImageData
from compressor.data.open_data import open_data
from compressor.data.sampling import ReadBlocks, shuffled
from compressor.data.streaming import StreamingSplit
from compressor.errors import DataError

SIZES = [(12, 9), (8, 8), (7, 15), (30, 20)]


def picture(index: int) -> bytes:
    width, height = SIZES[index % 4]
    pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """22 training pictures and 6 for testing, of two classes."""
    for split, first, count in (("train", 0, 22), ("val", 100, 6)):
        for index in range(first, first + count):
            path = tmp_path / split / "ab"[index % 2] / f"{index:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(index))
    return tmp_path


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same as two Parquet files with row groups of 4, of which two fit into a window."""
    for name, first, count in (("train-0", 0, 10), ("train-1", 10, 12), ("test", 100, 6)):
        rows = range(first, first + count)
        table = pa.table({"image": [picture(index) for index in rows], "label": [index % 2 for index in rows]})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=4, compression="none")
    biggest = max(
        pq.ParquetFile(each).metadata.row_group(group).total_byte_size
        for each in tmp_path.glob("train-*.parquet")
        for group in range(pq.ParquetFile(each).num_row_groups)
    )
    monkeypatch.setattr(parquet, "WINDOW", 2 * biggest)
    return tmp_path


def open_(base: Path, source: str = "folder", *, input: tuple[int, int, int] = (3, 8, 8), **changed: Any) -> ImageData:
    settings: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "augment": "cifar", "workers": 0}
    settings = DataSettings(source, **(settings | changed))
    data = open_data(settings, base, ModelSpec("net", one_image(input)), num_classes=2)
    assert isinstance(data, ImageData)
    return data


def everything(data: ImageData) -> list[torch.Tensor]:
    """All that a run reads of it."""
    batches = [
        *data.train_batches(4, epoch=2, seed=5),
        *data.train_batches(4, epoch=3, seed=5, start=2, part=(1, 3)),
        *data.val_batches(4),
        *data.holdout_batches(3),
    ]
    return [*(each for pair in batches for each in pair), *data.calibration_batches(4, images=9)]


@pytest.mark.parametrize("augment", ["none", "cifar", "trivialaugment"])
def test_the_same_batches_as_in_memory_whatever_the_workers(
    folder: Path, monkeypatch: pytest.MonkeyPatch, augment: str
) -> None:
    expected = open_(folder, augment=augment, holdout=0.2)
    monkeypatch.setattr(splits, "MEMORY_LIMIT", 100)
    for workers in (0, 3):
        data = open_(folder, augment=augment, holdout=0.2, workers=workers)
        assert isinstance(data.train, StreamingSplit)
        assert isinstance(data.val, StreamingSplit)
        assert (data.train_size, data.val_size) == (expected.train_size, 6) == (18, 6)
        for ours, theirs in zip(everything(data), everything(expected), strict=True):
            assert torch.equal(ours, theirs)


def test_whole_pictures_are_cut_anew_in_every_epoch(folder: Path) -> None:
    data, again = open_(folder, augment="imagenet"), open_(folder, augment="imagenet", workers=2)
    assert isinstance(data.train, StreamingSplit)
    first, _ = next(data.train_batches(22, epoch=0, seed=0))
    assert first.shape == (22, 3, 8, 8)
    for ours, theirs in zip(everything(data), everything(again), strict=True):
        assert torch.equal(ours, theirs)
    states = [torch.get_rng_state()]
    other, _ = next(data.train_batches(22, epoch=1, seed=0))
    states.append(torch.get_rng_state())
    assert torch.equal(*states), "nobody else's random numbers are touched"
    assert not torch.equal(first.sum((1, 2, 3)).sort().values, other.sum((1, 2, 3)).sort().values)


def test_tested_on_the_centre_at_256_over_224(folder: Path) -> None:
    """As torchvision prepares ImageNet: Resize(256), CenterCrop(224), here at 7 / 8 of 64."""
    data = open_(folder, augment="imagenet", input=(3, 56, 56), mean=(0.0,) * 3, std=(1.0,) * 3)
    prepare = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(56), transforms.ToTensor()])
    ordered = [100, 102, 104, 101, 103, 105]
    expected = torch.stack([prepare(Image.open(io.BytesIO(picture(index)))) for index in ordered])
    (images, labels), *_ = data.val_batches(6)
    torch.testing.assert_close(images, expected)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_row_groups_are_shuffled_and_read_a_window_at_a_time(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, runs = open_(groups, "parquet", augment="none"), []
    monkeypatch.setattr(splits, "MEMORY_LIMIT", 100)
    for workers in (0, 2):
        data = open_(groups, "parquet", augment="none", workers=workers, mean=None, std=None)
        assert data.train.blocks is not None
        assert data.train.blocks.starts.tolist() == [0, 4, 8, 10, 14, 18]
        assert data.train.blocks.window == 2
        assert data.mean == pytest.approx(kept.train.images.double().div(255).mean((0, 2, 3)).tolist())
        data = open_(groups, "parquet", augment="none", workers=workers)
        for ours, theirs in zip(data.val_batches(4), kept.val_batches(4), strict=True):
            assert torch.equal(ours[0], theirs[0])
        ours, theirs = (next(each.train_batches(22, epoch=0, seed=0))[0] for each in (data, kept))
        assert torch.equal(*(each.flatten(1).sum(1).sort().values for each in (ours, theirs))), "the same pictures"
        runs.append(everything(data))
    assert all(torch.equal(*pair) for pair in zip(*runs, strict=True))


def test_an_order_by_blocks() -> None:
    blocks = ReadBlocks(np.array([0, 4, 8, 10, 14, 18]), window=2)
    rows = torch.tensor([each for each in range(22) if each not in (3, 12)])
    orders = [shuffled(rows, 1, epoch, blocks).tolist() for epoch in range(50)]
    for order in orders:
        assert sorted(order) == rows.tolist()
        seen = list(dict.fromkeys(int(np.searchsorted(blocks.starts, row, side="right")) for row in order))
        windows = [set(seen[first : first + 2]) for first in (0, 2, 4)]
        places = [next(i for i, each in enumerate(windows) if int(b) in each) for b in
                  (np.searchsorted(blocks.starts, row, side="right") for row in order)]  # fmt: skip
        assert places == sorted(places), "a window is done with before the next begins"
    assert len({tuple(order) for order in orders}) == 50
    assert {order[0] for order in orders} > {0, 4, 21}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.setattr(splits, "MEMORY_LIMIT", 100)
    bad = folder / "train" / "a" / "004.png"
    bad.write_bytes(bad.read_bytes()[:60])
    data = open_(folder, workers=workers)
    with raises_error(DataError, "data/unreadable-image", "a/004.png"):
        list(data.train_batches(4, epoch=0, seed=0))
    bad.unlink()
    with raises_error(DataError, "data/unreadable-image", "a/004.png", "No such file"):
        list(data.train_batches(4, epoch=0, seed=0))


def test_an_epoch_that_is_given_up_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "MEMORY_LIMIT", 100)
    data = open_(folder, workers=2)
    batches = data.train_batches(2, epoch=0, seed=0)
    next(batches)
    del batches
    assert len(list(data.train_batches(2, epoch=0, seed=0))) == 11


FACTORY = """
import numpy as np, torch
from PIL import Image
class Pictures:
    def __init__(self, count): self.count = count
    def __len__(self): return self.count
    def __getitem__(self, index):
        pixels = np.random.default_rng(index).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        return Image.fromarray(pixels), index % 2
def make(): return Pictures(20), Pictures(6)
class Failing(Pictures):
    reads = 0
    def __getitem__(self, index):
        self.reads += 1
        if self.reads > 30: raise OSError("the disk is gone")
        return super().__getitem__(index)
def failing(): return Failing(20), Pictures(6)
"""


def test_a_users_data_set_is_read_again_image_by_image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "mine.py").write_text(FACTORY)
    kept = open_(folder, "mine.py:make")
    monkeypatch.setattr(splits, "MEMORY_LIMIT", 100)
    data = open_(folder, "mine.py:make", workers=2)
    assert isinstance(data.train, StreamingSplit)
    for ours, theirs in zip(everything(data), everything(kept), strict=True):
        assert torch.equal(ours, theirs)
    failing = open_(folder, "mine.py:failing")
    with raises_error(
        DataError, "data/unreadable-image", "mine.py:failing train", re.compile(r"item \d+"), "the disk is gone"
    ):
        list(failing.train_batches(5, epoch=0, seed=0))
