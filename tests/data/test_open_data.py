"""Opening data: every source, every promise of the batches, and tables of what is wrong with data."""

from __future__ import annotations

import inspect
import io
import json
import shutil
import socket
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from failures import raises_error
from PIL import Image
from torch import nn
from torchvision import datasets

from compressor.commands.plan import plan_run
from compressor.core import ModelSpec, Task, one_image
from compressor.data.data_settings import DataSettings
from compressor.data.image_data import ImageData
from compressor.data.locate import infer_source, locate_data
from compressor.data.open_data import open_data
from compressor.data.python_sources import TORCHVISION
from compressor.data.tasks import classification, regression
from compressor.data.validate import check_answers
from compressor.errors import DataError
from compressor.recipe.recipe_config import Recipe

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10-jpeg"


def picture(index: int, size: tuple[int, int] = (4, 4), mode: str = "RGB", format: str = "PNG") -> bytes:
    pixels = np.random.default_rng(index).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format)
    return buffer.getvalue()


def pixels(index: int) -> torch.Tensor:
    """What `picture(index)` holds, (3, 4, 4)."""
    return torch.from_numpy(np.random.default_rng(index).integers(0, 256, (4, 4, 3), dtype=np.uint8)).permute(2, 0, 1)


def write(
    path: Path,
    images: list[Any],
    labels: Any,
    *,
    binary: bool = False,
    names: list[str] | None = None,
    column: str = "image",
) -> None:
    column_type = pa.binary() if binary else pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = images if binary else [{"bytes": each, "path": None} for each in images]
    table = pa.table({column: pa.array(rows, column_type), "label": labels})
    if names:
        info = {"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def parquet(folder: Path, **settings: Any) -> Path:
    write(folder / "train.parquet", [picture(index) for index in range(10)], [0, 1, 2, 0, 1, 2, 0, 1, 2, 0], **settings)
    write(folder / "test.parquet", [picture(index) for index in range(10, 14)], [2, 1, 0, 1], **settings)
    return folder


def open_(
    source: str | DataSettings,
    base: Path,
    *,
    input: tuple[int, int, int] = (3, 4, 4),
    num_classes: int | None = 3,
    task: Task | None = None,
    **changed: Any,
) -> ImageData:
    settings = DataSettings(source) if isinstance(source, str) else source
    settings = replace(settings, **({"mean": (0.5,) * 3, "std": (0.25,) * 3} | changed))
    data = open_data(settings, base, ModelSpec("net", one_image(input)), num_classes=num_classes, task=task)
    assert isinstance(data, ImageData)
    return data


RAISED = "data/user-code-raised"


# ---------------------------------------------------------------- batches


def test_batches_are_normalised_pixels_with_their_labels(tmp_path: Path) -> None:
    """(pixel / 255 - mean) / std, every training image once, shuffled; the test set in its order."""
    data = open_("parquet", parquet(tmp_path), mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.2))
    assert (data.name, data.num_classes, data.train_size, data.val_size) == (tmp_path.name, 3, 10, 4)
    mean, std = torch.tensor([0.1, 0.2, 0.3])[:, None, None], torch.tensor([0.5, 0.25, 0.2])[:, None, None]
    (images, labels), (rest, _) = data.val_batches(3)
    assert (images.dtype, labels.dtype, len(rest)) == (torch.float32, torch.int64, 1)
    torch.testing.assert_close(images, torch.stack([(pixels(i) / 255 - mean) / std for i in (10, 11, 12)]))
    assert labels.tolist() == [2, 1, 0]
    (half, _), *more = data.val_batches(3, images=2)
    torch.testing.assert_close(half, torch.stack([(pixels(i) / 255 - mean) / std for i in (10, 12)]))
    assert not more
    seen = []
    for images, labels in data.train_batches(5, epoch=0, seed=0):
        for image, label in zip(images, labels, strict=True):
            distances = [((image * std + mean) * 255 - pixels(i)).abs().max().item() for i in range(10)]
            assert min(distances) < 1e-3
            seen.append(distances.index(min(distances)))
            assert label == seen[-1] % 3
    assert sorted(seen) == list(range(10)) != seen


def test_order_and_augmentation_depend_on_seed_and_epoch_alone(tmp_path: Path) -> None:
    data = open_("parquet", parquet(tmp_path), augment="cifar")

    def batches(epoch: int, seed: int) -> torch.Tensor:
        torch.rand(1)
        return torch.cat([images for images, _ in data.train_batches(5, epoch=epoch, seed=seed)])

    first = batches(0, 0)
    torch.manual_seed(99)
    assert torch.equal(batches(0, 0), first)
    others = [batches(0, 0), batches(1, 0), batches(0, 1), batches(1, 1)]
    assert all(not torch.equal(a, b) for i, a in enumerate(others) for b in others[:i])


@pytest.mark.parametrize(("batch_size", "sizes"), [(4, [4, 4]), (10, [10]), (3, [3, 3, 3]), (64, [10])])
def test_a_last_odd_batch_is_dropped(tmp_path: Path, batch_size: int, sizes: list[int]) -> None:
    data = open_("parquet", parquet(tmp_path))
    assert [len(labels) for _, labels in data.train_batches(batch_size, epoch=0, seed=0)] == sizes


@pytest.mark.parametrize(("world", "batch_size"), [(1, 4), (2, 4), (3, 4), (2, 3), (4, 3), (2, 64)])
def test_parts_are_the_batches_and_any_batch_can_be_the_first(tmp_path: Path, world: int, batch_size: int) -> None:
    data = open_("parquet", parquet(tmp_path), augment="cifar")

    def batches(start: int, part: tuple[int, int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(data.train_batches(batch_size, epoch=3, seed=7, start=start, part=part))

    whole = batches(0, (0, 1))
    for start in range(len(whole) + 2):
        parts = [batches(start, (rank, world)) for rank in range(world)]
        assert all(len(each) == max(len(whole) - start, 0) for each in parts)
        for expected, *shares in zip(whole[start:], *parts, strict=True):
            for whole_one, of_ranks in zip(expected, zip(*shares, strict=True), strict=True):
                assert torch.equal(torch.cat(of_ranks), whole_one)
            sizes = [len(labels) for _, labels in shares]
            assert max(sizes) - min(sizes) <= 1


def test_plain_batches_are_one_fixed_sample_without_order(tmp_path: Path) -> None:
    labels = [0] * 50 + [1] * 50
    write(tmp_path / "train.parquet", [picture(label) for label in labels], labels)
    write(tmp_path / "test.parquet", [picture(0)], [0])
    data = open_("parquet", tmp_path, num_classes=2, augment="cifar")
    batches = list(data.calibration_batches(8, images=20))
    assert [len(each) for each in batches] == [8, 8, 4]
    assert torch.equal(torch.cat(batches), torch.cat(list(data.calibration_batches(20, images=20))))
    zeros = ((torch.cat(batches) - (pixels(0) / 255 - 0.5) / 0.25).abs() < 1e-5).all(3).all(2).all(1).sum()
    assert 4 < zeros < 16  # sorted files still give both classes
    assert sum(len(each) for each in data.calibration_batches(8, images=1000)) == 100


def test_statistics_are_measured_when_not_given(tmp_path: Path) -> None:
    data = open_("parquet", parquet(tmp_path), mean=None, std=None)
    everything = torch.stack([pixels(index) for index in range(10)]).double() / 255
    assert data.mean == pytest.approx(everything.mean((0, 2, 3)).tolist())
    assert data.std == pytest.approx(everything.std((0, 2, 3), correction=0).tolist())


# ---------------------------------------------------------------- sources


@pytest.mark.parametrize("settings", [{}, {"binary": True}, {"names": ["a", "b", "c"]}, {"column": "img"}])
def test_parquet_layouts(tmp_path: Path, settings: dict[str, Any]) -> None:
    data = open_("parquet", parquet(tmp_path, **settings))
    assert torch.equal(data.train.images, torch.stack([pixels(index) for index in range(10)]))


def test_shards_in_order_and_names_of_the_hub(tmp_path: Path) -> None:
    for shard in range(3):
        write(tmp_path / f"train-{shard:05}-of-00003.parquet", [picture(shard)], [shard])
    write(tmp_path / "validation-00000-of-00001.parquet", [picture(9)], [0])
    write(tmp_path / "test-00000-of-00001.parquet", [picture(8)], [-1])  # published without labels
    for found in (DataSettings("parquet"), infer_source(str(tmp_path))):
        data = open_(found, tmp_path)
        assert torch.equal(data.train.images, torch.stack([pixels(index) for index in range(3)]))
        assert torch.equal(data.val.images[0], pixels(9))
        assert data.name == tmp_path.name


def image_folder(top: Path, val: str = "val") -> Path:
    for split, offset in (("train", 0), (val, 6)):
        for index in range(6):
            path = top / split / "abc"[index % 3] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(offset + index))
    (top / "train" / "a" / "Thumbs.db").write_bytes(b"not a picture")
    return top


@pytest.mark.parametrize("val", ["val", "valid", "validation", "test"])
def test_folder(tmp_path: Path, val: str) -> None:
    for found in (DataSettings("folder"), infer_source(str(image_folder(tmp_path, val)))):
        data = open_(found, tmp_path)
        assert torch.equal(data.train.images, torch.stack([pixels(index) for index in (0, 3, 1, 4, 2, 5)]))
        assert data.train.targets.tolist() == data.val.targets.tolist() == [0, 0, 1, 1, 2, 2]


FACTORY = """
import torch
from PIL import Image
def pairs():
    images = torch.arange(6 * 48).reshape(6, 3, 4, 4)
    return (images.to(torch.uint8), torch.arange(6) % 3), (images.to(torch.uint8)[:3], torch.arange(3))
def floats():
    images = torch.full((6, 3, 4, 4), 0.5, dtype=torch.float64)
    return (images, torch.arange(6) % 3), (images[:3], torch.arange(3))
class Pictures:
    def __len__(self): return 3
    def __getitem__(self, index): return Image.new("L", (9, 7), 200), index
def dataset(): return Pictures(), Pictures()
def broken(): return 1 / 0
def unsized(): return iter([]), iter([])
def one(): return Pictures()
def shape(): return ((torch.zeros(3, 3, 5, 5), torch.arange(3)),) * 2
def halves(): return ((torch.zeros(3, 3, 4, 4), torch.arange(3) / 2),) * 2
def short(): return ((torch.zeros(3, 3, 4, 4), torch.arange(2)),) * 2
def bands(): return ((torch.full((3, 5, 4, 4), 0.25), torch.arange(3)),) * 2
def nothing(): return None
def words(): return ["a", "b"]
def loader():
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(3, 3, 4, 4), torch.arange(3)))
def loaders(): return loader(), loader()
def package():
    import no_such_package
def late():
    yield torch.ones(2, 3, 4, 4)
    raise KeyError("late")
class Spoilt:
    def __len__(self): return 3
    def __getitem__(self, index): return [][index]
def Spoilt_pair(): return Spoilt(), Spoilt()
def nested(): yield [{"a": 1}]
def named(): yield {"pixels": torch.ones(2, 3, 4, 4), "labels": torch.ones(2)}
def numbers(): yield 1.0
def sizes(): return iter((torch.ones(2, 3, 4, 4), torch.ones(2, 3, 5, 5)))
def rows(): return [{"image": 1, "label": 2}] * 3, [{"image": 1, "label": 2}] * 3
"""


def test_factories(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FACTORY)
    pairs = open_("mine.py:pairs", tmp_path)
    assert torch.equal(pairs.train.images, torch.arange(6 * 48).reshape(6, 3, 4, 4).to(torch.uint8))
    (images, _), *_ = open_(infer_source(f"{tmp_path}/mine.py:floats"), tmp_path).val_batches(3)
    assert (images.dtype, images.unique().tolist()) == (torch.float32, [0.5])  # normalised by whoever made them
    assert open_("mine.py:dataset", tmp_path).train.images.unique().tolist() == [200]
    (images, _), *_ = open_("mine.py:bands", tmp_path, input=(5, 4, 4), mean=None, std=None).val_batches(3)
    assert (images.shape, images.unique().tolist()) == ((3, 5, 4, 4), [0.25]), "as many channels as the model takes"
    with raises_error(DataError, "data/factory", "item 0", "1 or 3 channels", "5"):
        open_("mine.py:pairs", tmp_path, input=(5, 4, 4), mean=None, std=None)


@pytest.mark.parametrize(
    ("name", "code", "values"),
    [
        ("broken", RAISED, ("mine.py:14", "ZeroDivisionError")),
        ("package", RAISED, ("mine.py:27", "ModuleNotFoundError", "install no_such_package")),
        ("late", RAISED, ("mine.py:30", "KeyError: 'late'")),
        ("Spoilt_pair", RAISED, ("mine.py:33", "IndexError")),
        ("absent", "data/no-such-callable", ("mine.py:absent", "pairs, floats, Pictures")),
        ("dataset_", "data/no-such-callable", ("mine.py:dataset_", "did you mean dataset?")),
        ("nothing", "data/factory", ("mine.py:nothing", "NoneType", "(train, val)")),
        ("words", "data/factory", ("mine.py:words train", "str", "(train, val)")),
        ("unsized", "data/factory", ("mine.py:unsized train", "list_iterator", "(train, val)")),
        ("one", "data/factory", ("mine.py:one", "2 tensors", "the model takes 1", "(train, val)")),
        ("loader", "data/factory", ("mine.py:loader", "2 tensors", "the model takes 1", "(train, val)")),
        ("nested", "data/factory", ("mine.py:nested", "input", "dict", "(train, val)")),
        ("named", "data/factory", ("mine.py:named", "pixels, labels", "(train, val)")),
        ("numbers", "data/factory", ("mine.py:numbers", "input", "a single number")),
        ("sizes", "data/factory", ("mine.py:sizes", "(3, 4, 4)", "(3, 5, 5)")),
        ("rows", "data/factory", ("mine.py:rows train: item 0", "dict", "(image, target)")),
        ("shape", "data/factory", ("mine.py:shape train: item 0", "(3, 5, 5)", "(3, 4, 4)")),
        ("halves", "data/factory", ("mine.py:halves train: item 0", "label 0.0", "data.task")),
        ("short", "data/factory", ("mine.py:short train", "3 images", "2 targets")),
    ],
)
def test_bad_factories(tmp_path: Path, name: str, code: str, values: tuple[str, ...]) -> None:
    """What our checks find is told as such; only what the user's code raises is its fault."""
    (tmp_path / "mine.py").write_text(FACTORY)
    with raises_error(DataError, code, *values) as raised:
        open_(f"{tmp_path}/mine.py:{name}", tmp_path)
    assert ("traceback" in raised.value.hint) == (code == RAISED and name != "package")


def test_a_pair_of_loaders_is_a_pair_of_their_data_sets(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FACTORY)
    data = open_("mine.py:loaders", tmp_path)
    assert (data.train_size, data.val_size, data.train.targets.tolist()) == (3, 3, [0, 1, 2])


@pytest.mark.parametrize(
    ("mode", "format", "size", "input"),
    [
        ("L", "PNG", (4, 4), (3, 4, 4)),
        ("RGB", "JPEG", (4, 4), (1, 4, 4)),
        ("RGBA", "PNG", (9, 5), (3, 4, 4)),
        ("P", "GIF", (3, 8), (3, 4, 4)),
        ("1", "BMP", (8, 8), (1, 4, 4)),
        ("CMYK", "JPEG", (8, 8), (3, 4, 4)),
    ],
)
def test_other_modes_formats_and_sizes(
    tmp_path: Path, mode: str, format: str, size: tuple[int, int], input: tuple[int, int, int]
) -> None:
    for name in ("train", "test"):
        write(tmp_path / f"{name}.parquet", [picture(i, size, mode, format) for i in range(3)], [0, 1, 2])
    data = open_("parquet", tmp_path, input=input, mean=None, std=None)
    assert data.train.images.shape == (3, *input)
    assert len(data.train.images.unique()) > 1


def test_resizing_covers_the_input_and_cuts_the_centre(tmp_path: Path) -> None:
    """A 16 x 4 picture of four flat squares at input 4 x 4: of the two in the middle, half each is kept."""
    squares = np.repeat(np.repeat(np.array([[0, 80, 160, 240]], np.uint8), 4, 0), 4, 1)
    buffer = io.BytesIO()
    Image.fromarray(squares).save(buffer, "PNG")
    for name in ("train", "test"):
        write(tmp_path / f"{name}.parquet", [buffer.getvalue()], [0])
    data = open_("parquet", tmp_path, input=(1, 4, 4), num_classes=1, mean=(0.0,), std=(1.0,))
    assert data.train.images.tolist() == [[[[80, 80, 160, 160]] * 4]]


# ---------------------------------------------------------------- what can be wrong


def rewrite(images: list[Any] | None = None, labels: Any = None, **settings: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        write(
            folder / "train.parquet",
            images or [picture(index) for index in range(4)],
            [0, 1, 2, 0] if labels is None else labels,
            **settings,
        )

    return spoil


def replace_with(table: dict[str, Any]) -> Callable[[Path], None]:
    return lambda folder: pq.write_table(pa.table(table), folder / "train.parquet")


SIXTEEN_BIT = io.BytesIO()
Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(SIXTEEN_BIT, "PNG")
GOOD, CUT = picture(0), picture(0, format="JPEG")[:300]


@pytest.mark.parametrize(
    ("spoil", "code", "values"),
    [
        (
            lambda f: (f / "train.parquet").unlink(),
            "data/no-split-file",
            ("data.train", "train.parquet", "train-*.parquet"),
        ),
        (
            lambda f: (f / "test.parquet").unlink(),
            "data/no-split-file",
            ("data.val", "validation.parquet", "test-*.parquet"),
        ),
        (lambda f: (f / "train.parquet").write_bytes(b"junk"), "data/unreadable-parquet", ("train.parquet",)),
        (lambda f: (f / "train.parquet").write_bytes(b""), "data/unreadable-parquet", ("train.parquet",)),
        (
            lambda f: (f / "train.parquet").write_bytes((f / "train.parquet").read_bytes()[:-50]),
            "data/unreadable-parquet",
            ("train.parquet",),
        ),
        (rewrite([GOOD, CUT, b"", None]), "data/unreadable-image", ("row 1", "3 of 4", "row 2", "row 3")),
        (rewrite([GOOD, GOOD, GOOD, SIXTEEN_BIT.getvalue()]), "data/unreadable-image", ("row 3", "8 bits", "1 of 4")),
        (rewrite(labels=[0, 1, -2, 2]), "data/label-out-of-range", ("train.parquet row 2", "label -2", "0..2", "1")),
        (
            rewrite(labels=[0, 9, 1, 2]),
            "data/class-count-differs",
            ("10 classes", "label 9", "train.parquet row 1", "model has 3"),
        ),
        (rewrite(labels=[0, 1, 1, 0]), "data/label-out-of-range", ("test.parquet row 0", "label 2", "0..1")),
        (rewrite(labels=[0, None, 1, 2]), "data/missing-label", ("train.parquet row 1", "1 in all")),
        (
            rewrite(labels=[0.0, 1.0, 2.0, 1.5]),
            "data/not-a-target-column",
            ("column label", "double", "data.task"),
        ),
        (rewrite(labels=["a", "b", "c", "a"]), "data/not-a-target-column", ("column label", "string")),
        (rewrite(labels=[True, False, True, True]), "data/not-a-target-column", ("column label", "bool")),
        (
            replace_with({"image": [b"x"], "target": [0]}),
            "data/no-such-column",
            ("label", "fine_label", "image, target"),
        ),
        (replace_with({"picture": [b"x"], "label": [0]}), "data/no-such-column", ("image", "img", "picture, label")),
        (replace_with({"image": ["x"], "label": [0]}), "data/not-an-image-column", ("column image", "string")),
        (
            replace_with({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}),
            "data/no-images",
            ("train.parquet",),
        ),
    ],
)
def test_bad_parquet(tmp_path: Path, spoil: Callable[[Path], object], code: str, values: tuple[str, ...]) -> None:
    spoil(parquet(tmp_path))
    with raises_error(DataError, code, *values) as caught:
        open_("parquet", tmp_path)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_class_names_tell_how_many_there_are(tmp_path: Path) -> None:
    parquet(tmp_path, names=list("abcd"))
    assert open_("parquet", tmp_path, num_classes=4).num_classes == 4
    with raises_error(DataError, "data/class-count-differs", "4 classes", "model has 3"):
        open_("parquet", tmp_path)
    rewrite(labels=[0, 7, 7, 2], names=list("abcd"))(tmp_path)
    with raises_error(DataError, "data/label-out-of-range", "row 1", "label 7", "0..3", "2"):
        open_("parquet", tmp_path, num_classes=4)


def other_class(top: Path) -> None:
    (top / "val" / "c").rename(top / "val" / "z")


def spoiled_picture(top: Path) -> None:
    (top / "val" / "b" / "1.png").write_bytes(picture(0)[:40])


def test_a_validation_folder_may_lack_pictures_of_a_class(tmp_path: Path) -> None:
    shutil.rmtree(image_folder(tmp_path) / "val" / "b")
    data = open_("folder", tmp_path)
    assert data.num_classes == 3
    assert data.val.targets.tolist() == [0, 0, 2, 2]
    (tmp_path / "val" / "b").mkdir()
    assert open_("folder", tmp_path).val.targets.tolist() == [0, 0, 2, 2]


def test_answers_have_a_score_for_each_class(tmp_path: Path) -> None:
    data = open_("folder", image_folder(tmp_path))
    check_answers(nn.Sequential(nn.Flatten(), nn.Linear(48, 4)), data)
    with raises_error(DataError, "data/too-few-outputs", "3 classes", "shape 2"):
        check_answers(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), data)
    with raises_error(DataError, "data/too-few-outputs", "3 classes", "3x4x4"):
        check_answers(nn.Identity(), data)


@pytest.mark.parametrize(
    ("spoil", "code", "values"),
    [
        (other_class, "data/split-classes-differ", ("val", "train", "c, z")),
        (spoiled_picture, "data/unreadable-image", ("b/1.png", "1 of 6")),
        (
            lambda f: shutil.rmtree(f / "val"),
            "data/no-split-folder",
            ("data.val", "validation", "val", "valid", "test"),
        ),
        (lambda f: [each.unlink() for each in (f / "train" / "b").iterdir()], "data/empty-class-folder", ("train/b",)),
        (lambda f: [shutil.rmtree(f / "train" / each) for each in "abc"], "data/no-class-folders", ("data.train",)),
    ],
)
def test_bad_folders(tmp_path: Path, spoil: Callable[[Path], object], code: str, values: tuple[str, ...]) -> None:
    spoil(image_folder(tmp_path))
    with raises_error(DataError, code, *values):
        open_("folder", tmp_path)


@pytest.mark.parametrize(
    ("source", "changed", "code", "values"),
    [
        (
            "parquet",
            {"train": "trian.parquet"},
            "data/no-such-file",
            ("data.train", "trian.parquet", "did you mean train.parquet"),
        ),
        ("parquet", {"val": "elsewhere/test.parquet"}, "data/no-such-file", ("data.val", "elsewhere/test.parquet")),
        ("parquet", {"train": "t*z.parquet"}, "data/no-split-file", ("data.train", "t*z.parquet")),
        ("folder", {"train": "tarin"}, "data/no-such-file", ("data.train", "tarin")),
        ("parqet", {}, "data/unknown-source", ("data.source", "parqet", "parquet, folder")),
        ("torchvision:CIFAR11", {}, "data/unknown-torchvision-dataset", ("torchvision:CIFAR11", "CIFAR10")),
        ("mine.py:make", {}, "data/no-such-file", ("data.source", "mine.py")),
        ("parquet", {"input": (4, 4, 4)}, "data/unsupported-channels", ("model.input", "4 channels")),
        ("parquet", {"mean": (0.5,)}, "data/wrong-statistics-length", ("data.mean", "1", "3 channels")),
    ],
)
def test_bad_settings(tmp_path: Path, source: str, changed: dict[str, Any], code: str, values: tuple[str, ...]) -> None:
    parquet(tmp_path)
    with raises_error(DataError, code, *values):
        open_(source, tmp_path, **changed)


def test_infer_source(tmp_path: Path) -> None:
    parquet(tmp_path / "set")
    here = tmp_path / "set"
    assert infer_source(str(here)) == DataSettings("parquet", str(here / "train.parquet"), str(here / "test.parquet"))
    assert infer_source("digits") == DataSettings("digits")
    assert infer_source("torchvision:MNIST") == DataSettings("torchvision:MNIST")
    (tmp_path / "empty").mkdir()
    single = here / "train.parquet"
    assert infer_source(str(single)) == DataSettings("samples", str(single))
    for path, code, *values in [
        (tmp_path / "empty", "data/unknown-layout", "*.parquet", "train/"),
        (tmp_path / "sett", "data/no-such-file", "did you mean set?"),
        (tmp_path / "mine.py:make", "data/no-such-file", "mine.py"),
    ]:
        with raises_error(DataError, code, *values):
            infer_source(str(path))


@pytest.mark.long
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the CIFAR-10 Parquet files beside the repository")
def test_cifar10() -> None:
    data = open_(infer_source(str(SHARED)), SHARED, num_classes=10, input=(3, 32, 32))
    assert (data.train_size, data.val_size, data.num_classes) == (50_000, 10_000, 10)
    assert data.train.targets.bincount().tolist() == [5000] * 10


# ---------------------------------------------------------------- held out, targets, tasks


def labelled(folder: Path, labels: list[int]) -> Path:
    write(folder / "train.parquet", [picture(index) for index in range(len(labels))], labels)
    write(folder / "test.parquet", [picture(100 + label) for label in sorted(set(labels))], sorted(set(labels)))
    return folder


def test_the_held_out_split_is_never_trained_on(tmp_path: Path) -> None:
    labels = [0] * 40 + [1] * 20 + [2] * 5
    data = open_("parquet", labelled(tmp_path, labels), augment="none", holdout=0.2)
    whole = {tuple(image.flatten().tolist()): index for index, image in enumerate(data.train.images)}

    def rows(batches: Any) -> list[int]:
        back = [((images * 0.25 + 0.5) * 255).round().to(torch.uint8) for images in batches]
        return [whole[tuple(image.flatten().tolist())] for image in torch.cat(back)]

    held = rows(images for images, _ in data.holdout_batches(4))
    assert torch.tensor([labels[row] for row in held]).bincount().tolist() == [8, 4, 1]
    assert held == sorted(held)
    some = rows(images for images, _ in data.holdout_batches(4, images=5))
    assert some == [held[at] for at in (0, 2, 5, 7, 10)], "of all classes, though the rows are sorted by class"
    assert torch.equal(torch.cat([y for _, y in data.holdout_batches(4)]), torch.tensor([labels[row] for row in held]))
    assert data.train_size == 65 - 13
    for epoch in range(3):
        trained = rows(images for images, _ in data.train_batches(52, epoch=epoch, seed=0))
        assert sorted([*trained, *held]) == list(range(65))
    assert not set(rows(data.calibration_batches(10, images=1000))) & set(held)
    augmented = open_("parquet", tmp_path, augment="cifar", holdout=0.2)
    for ours, theirs in zip(augmented.holdout_batches(4), data.holdout_batches(4), strict=True):
        assert torch.equal(ours[0], theirs[0]), "never augmented"
    assert list(open_("parquet", tmp_path).holdout_batches(4)) == []


def test_a_share_that_comes_to_nothing_is_refused(tmp_path: Path) -> None:
    with raises_error(DataError, "data/empty-holdout", "data.holdout", "0.5%", "3"):
        open_("parquet", labelled(tmp_path, [0, 1, 2]), holdout=0.005)


TARGETS = """
import torch
from helper import images
def ages(): return (images(6), torch.arange(6.0)), (images(3), torch.arange(3.0))
class Both:
    def __init__(self, count): self.count = count
    def __len__(self): return self.count
    def __getitem__(self, index):
        return images(1)[0], {"depth": torch.full((4, 4), float(index)), "class": index}
def depths():
    return tuple((images(n), torch.arange(n * 16.0).reshape(n, 4, 4)) for n in (6, 3))
def both(): return Both(6), Both(3)
def whole(): return (images(6), torch.arange(6)), (images(3), torch.arange(3))
def holes(): return (images(2), torch.tensor([1.0, float("nan")])), (images(1), torch.ones(1))
class Ragged(Both):
    def __getitem__(self, index): return images(1)[0], torch.zeros(index + 1)
def ragged(): return Ragged(3), Ragged(3)
"""
HELPER = "import torch\ndef images(n): return torch.zeros(n, 3, 4, 4, dtype=torch.uint8)"


@pytest.fixture
def targets(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(TARGETS)
    (tmp_path / "helper.py").write_text(HELPER)  # found, as when python runs mine.py itself
    return tmp_path


def test_targets_of_any_shape(targets: Path) -> None:
    ages = open_("mine.py:ages", targets, task=regression(), num_classes=1, augment="cifar", holdout=0.3)
    assert (ages.num_classes, ages.train_size, ages.task.name) == (0, 4, "regression")
    assert [each.tolist() for _, each in ages.val_batches(2)] == [[0.0, 1.0], [2.0]]
    depths = open_("mine.py:depths", targets, task=regression(), num_classes=None)
    assert [each.shape for _, each in depths.train_batches(3, epoch=0, seed=0)] == [(3, 4, 4)] * 2
    own = Task("own", lambda output, target, smoothing: torch.zeros(()), classification().metric)
    both = open_("mine.py:both", targets, task=own, num_classes=None)
    parts = [list(both.train_batches(5, epoch=0, seed=0, part=(rank, 2))) for rank in range(2)]
    assert [len(target["class"]) for part in parts for _, target in part] == [2, 3]
    for part in parts:
        for _, target in part:
            assert target["depth"].dtype == torch.float32
            assert torch.equal(target["depth"][:, 0, 0], target["class"].float())


@pytest.mark.parametrize(
    ("name", "changed", "code", "values"),
    [
        ("ages", {}, "data/factory", ("mine.py:ages train", "label 0.0")),
        ("depths", {}, "data/factory", ("mine.py:depths train", "(4, 4)", "data.task")),
        ("holes", {"task": regression()}, "data/non-finite-target", ("mine.py:holes train: item 1", "1 in all")),
        ("both", {"task": regression()}, "data/targets-not-floats", ("mine.py:both train",)),
        ("whole", {"task": regression()}, "data/targets-not-floats", ("mine.py:whole train",)),
        ("ragged", {"task": regression()}, "data/factory", ("mine.py:ragged train", "equal size")),
        (
            "depths",
            {"task": regression(), "augment": "flip"},
            "data/augment-moves-targets",
            ("data.augment: flip", "(4, 4)"),
        ),
    ],
)
def test_bad_targets(targets: Path, name: str, changed: dict[str, Any], code: str, values: tuple[str, ...]) -> None:
    with raises_error(DataError, code, *values) as caught:
        open_(f"mine.py:{name}", targets, **changed)
    assert "\n" not in str(caught.value)


def test_integers_in_parquet_files_are_classes_and_floats_are_targets(tmp_path: Path) -> None:
    with raises_error(DataError, "data/targets-not-floats", "train.parquet"):
        open_("parquet", parquet(tmp_path), task=regression())
    for name, ages in (("train.parquet", [0.5, 1.5, 3.0]), ("test.parquet", [2.5])):
        write(tmp_path / name, [GOOD] * len(ages), ages)
    data = open_("parquet", tmp_path, task=regression(), num_classes=None)
    assert [each.tolist() for _, each in data.val_batches(2)] == [[2.5]]
    assert torch.equal(data.train.targets, torch.tensor([0.5, 1.5, 3.0]))


def test_colours_of_floats_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FACTORY)
    with raises_error(DataError, "data/augment-needs-uint8", "data.augment: randaugment"):
        open_("mine.py:floats", tmp_path, augment="randaugment")


# ---------------------------------------------------------------- torchvision


def idx(path: Path, values: np.ndarray) -> None:
    """The format of MNIST's files: a magic number, the sizes, the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def test_torchvision_sets_are_read_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    images = {"train": rng.integers(0, 256, (20, 28, 28)), "t10k": rng.integers(0, 256, (10, 28, 28))}
    for split, each in images.items():
        idx(tmp_path / "MNIST/raw" / f"{split}-images-idx3-ubyte", each)
        idx(tmp_path / "MNIST/raw" / f"{split}-labels-idx1-ubyte", np.arange(len(each)) % 10)
    monkeypatch.setattr(socket, "socket", None)  # no network is asked for
    data = open_("torchvision:MNIST", tmp_path, input=(1, 28, 28), num_classes=10, mean=None, std=None)
    assert (data.name, data.train_size, data.val_size) == ("torchvision:MNIST", 20, 10)
    assert torch.equal(data.train.images[:, 0], torch.from_numpy(images["train"]).to(torch.uint8))
    assert data.val.targets.tolist() == list(range(10))


def test_a_torchvision_set_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with raises_error(DataError, "data/download-failed", "torchvision:MNIST", "--data"):
        open_("torchvision:MNIST", tmp_path, input=(1, 28, 28))
    assert capsys.readouterr().out == "", "stdout carries results only"


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_has_each_set_by_these_arguments(name: str) -> None:
    parameters = inspect.signature(getattr(datasets, name)).parameters
    assert "download" in parameters
    for arguments in TORCHVISION[name]:
        assert set(arguments) <= set(parameters)


# ---------------------------------------------------------------- where it lies


@pytest.mark.parametrize(
    ("recipe", "path", "expected"),
    [
        (None, None, None),
        (None, "digits", ("digits", None, None, None)),
        ({"augment": "flip"}, None, None),
        ({"augment": "flip"}, "digits", ("digits", None, None, None)),
        ({"augment": "flip"}, "set", ("parquet", "{}/set/train.parquet", "{}/set/test.parquet", None)),
        ({"source": "digits"}, None, ("digits", None, None, None)),
        ({"source": "digits"}, "set", ("parquet", "{}/set/train.parquet", "{}/set/test.parquet", None)),
        ({"source": "parquet", "train": "train.parquet"}, "set", ("parquet", "train.parquet", None, "set")),
        ({"source": "parquet", "train": "train.parquet"}, "digits", ("digits", None, None, None)),
        ({"source": "torchvision:MNIST"}, "set", ("torchvision:MNIST", None, None, "set")),
        ({"source": "torchvision:MNIST"}, "new", ("torchvision:MNIST", None, None, "new")),
        ({"source": "mine.py:make"}, "set", ("mine.py:make", None, None, "set")),
        ({"source": "mine.py:make"}, "digits", ("digits", None, None, None)),
    ],
)
def test_where_the_data_of_a_run_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any] | None, path: str | None, expected: Any
) -> None:
    parquet(tmp_path / "set")
    (tmp_path / "set" / "mine.py").write_text("")
    monkeypatch.chdir(tmp_path)
    location = located(recipe, path)
    if expected is None:
        assert location is None
        return
    assert location is not None
    settings, base = location
    wanted = [part and part.format(tmp_path) for part in expected]
    assert [settings.source, settings.train, settings.val, base and str(base)] == wanted


@pytest.mark.parametrize(
    ("recipe", "path", "code", "values"),
    [
        (None, "nope", "data/no-such-file", ("--data: nope",)),
        ({"source": "parquet", "train": "train.parquet"}, "nope", "data/no-such-file", ("--data: nope",)),
        (
            {"source": "parquet", "train": "trian.parquet"},
            "set",
            "data/no-such-file",
            ("data.train", "did you mean train.parquet"),
        ),
        ({"source": "parquet"}, None, "data/no-split-file", ("data.train", "train.parquet")),
        ({"source": "folder"}, None, "data/no-split-folder", ("data.train", "train")),
        ({"source": "mine.py:make"}, "set", "data/no-such-file", ("data.source", "mine.py")),
    ],
)
def test_data_that_is_not_there_is_noticed_without_reading_any(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recipe: dict[str, Any] | None,
    path: str,
    code: str,
    values: tuple[str, ...],
) -> None:
    parquet(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    with raises_error(DataError, code, *values):
        located(recipe, path)


def test_plan_looks_for_the_data_before_anything_else() -> None:
    with raises_error(DataError, "data/no-such-file", "--data: /nope"):
        plan_run("cifar:resnet8", recipe_of(None), data="/nope", trust_pickle=False, emit=lambda event, fields: None)


def located(recipe: dict[str, Any] | None, path: str | None) -> tuple[DataSettings, Path | None] | None:
    data = recipe_of(recipe).data
    return locate_data(data.to_settings() if data else None, path)


def recipe_of(data: dict[str, Any] | None) -> Recipe:
    prune = {"method": "l1", "target": {"macs": "50%"}}
    return Recipe.model_validate({"version": 1, "prune": prune, "data": data})


def test_images_held_out_for_a_choice_are_always_the_same_and_never_trained_on(tmp_path: Path) -> None:
    data = open_("parquet", labelled(tmp_path, [0, 1, 2, 0, 1] * 10), augment="none")
    held = data.with_holdout(100)
    assert (held.train_size, len(held.held_out)) == (45, 5), "a tenth at most"
    assert len(data.with_holdout(3).held_out) == 3
    assert torch.equal(held.held_out, data.with_holdout(100).held_out)
    assert held.with_holdout(1) is held, "the recipe's own split is used"
    judged = {tuple(image.flatten().tolist()) for images, _ in held.holdout_batches(4) for image in images}
    seen = [images for images, _ in held.train_batches(45, epoch=0, seed=0)] + list(
        held.calibration_batches(9, images=50)
    )
    assert not judged & {tuple(image.flatten().tolist()) for image in torch.cat(seen)}
    assert not data.has_holdout, "the data themselves do not change"
