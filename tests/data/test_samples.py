"""Samples without labels: what a source is taken for, what is held out, and what is refused."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from failures import raises_error
from PIL import Image
from safetensors.torch import save_file

from compressor.batches import join_batches
from compressor.core import ModelInput, ModelSpec
from compressor.data.data_settings import DataSettings
from compressor.data.locate import check_paths, infer_source
from compressor.data.open_data import open_data
from compressor.data.open_samples import noise_samples
from compressor.data.samples import Samples
from compressor.errors import DataError

IMAGE = (3, 8, 8)
TOKENS = (ModelInput((5,), "int64", (0, 99), "input_ids"), ModelInput((5,), "int64", (0, 1), "attention_mask"))


def open_samples(
    path: str | Path, inputs: tuple[ModelInput, ...] = (ModelInput(IMAGE),), **settings: object
) -> Samples:
    place = infer_source(str(path))
    check_paths(place.source, train=place.train, val=None, base=None)
    given = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "workers": 0, **settings}
    data = open_data(replace(place, **given), None, ModelSpec("net", inputs))
    assert isinstance(data, Samples)
    return data


def pictures(folder: Path, count: int = 10) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.new("RGB", (12, 9), (index * 10, 100, 50)).save(folder / f"{index:02}.png")
    return folder


def every_row(data: Samples) -> tuple[torch.Tensor, torch.Tensor]:
    calibration = torch.cat(list(data.calibration_batches(3, images=1000)))
    held_out = torch.cat([inputs for inputs, targets in data.val_batches(3) if targets is None])
    return calibration, held_out


def test_a_flat_and_a_nested_folder_of_pictures(tmp_path: Path) -> None:
    pictures(tmp_path / "flat")
    pictures(tmp_path / "nested" / "a" / "b", 5)
    pictures(tmp_path / "nested" / "c", 5)
    for name in ("flat", "nested"):
        calibration, held_out = every_row(open_samples(tmp_path / name))
        assert (calibration.shape, held_out.shape) == ((8, *IMAGE), (2, *IMAGE))
        assert held_out[:, 1].unique().tolist() == pytest.approx([(100 / 255 - 0.5) / 0.25])


def test_held_out_samples_calibrate_nothing(tmp_path: Path) -> None:
    data = open_samples(pictures(tmp_path / "set", 20))
    calibration, held_out = every_row(data)
    seen = {round(float(image[0, 0, 0]), 4) for image in calibration}
    kept = {round(float(image[0, 0, 0]), 4) for image in held_out}
    trained = torch.cat([inputs for inputs, _ in data.train_batches(4, epoch=0, seed=1)])
    assert (len(seen), len(kept), seen & kept) == (16, 4, set())
    assert {round(float(image[0, 0, 0]), 4) for image in trained} == seen
    assert torch.equal(every_row(data)[0], calibration), "the split is fixed"


def test_samples_held_out_for_a_choice_are_in_no_other_part() -> None:
    data = noise_samples((ModelInput((2,)),), seed=0, count=50)
    held = data.with_holdout(100)
    assert (data.train_size, held.train_size, held.val_size) == (40, 36, data.val_size)
    assert held.with_holdout(1) is held
    trained = torch.cat([inputs for inputs, _ in held.train_batches(36, epoch=0, seed=0)])
    calibrated = torch.cat(list(held.calibration_batches(8, images=50)))
    judged = torch.cat([inputs for inputs, _ in held.holdout_batches(3)])
    measured = torch.cat([inputs for inputs, _ in held.val_batches(8)])
    assert sorted(trained.tolist()) == sorted(calibrated.tolist())
    parts = [set(map(tuple, part.tolist())) for part in (trained, judged, measured)]
    assert [len(part) for part in parts] == [36, 4, 10]
    assert len(set.union(*parts)) == 50
    assert list(data.holdout_batches(3)) == []


def test_the_training_folder_alone_where_pictures_lie_beside_a_test_folder(tmp_path: Path) -> None:
    pictures(tmp_path / "train", 6)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "broken.png").write_bytes(b"not a picture")
    assert infer_source(str(tmp_path)) == DataSettings("samples", str(tmp_path / "train"))
    assert open_samples(tmp_path).train_size == 5


def parquet(path: Path, **columns: list[object]) -> None:
    encoded = []
    for index in range(6):
        stream = io.BytesIO()
        Image.new("RGB", (8, 8), (index * 20, 0, 0)).save(stream, "PNG")
        encoded.append({"bytes": stream.getvalue(), "path": f"{index}.png"})
    pq.write_table(pa.table({"image": encoded, **columns}), path)


def test_parquet_without_a_label_column_and_a_single_file_with_one(tmp_path: Path) -> None:
    for name in ("train", "test"):
        parquet(tmp_path / f"{name}.parquet")
    assert infer_source(str(tmp_path)) == DataSettings("samples", str(tmp_path / "train.parquet"))
    (tmp_path / "test.parquet").write_bytes(b"never opened")
    assert open_samples(tmp_path).train_size == 5
    parquet(tmp_path / "labelled.parquet", label=[0, 1, 2, 0, 1, 2])
    assert open_samples(tmp_path / "labelled.parquet").num_classes is None


def test_arrays_by_name(tmp_path: Path) -> None:
    ids, mask = torch.arange(50).reshape(10, 5), torch.ones(10, 5, dtype=torch.int64)
    np.savez(tmp_path / "tokens.npz", attention_mask=mask.numpy(), input_ids=ids.numpy())
    save_file({"input_ids": ids, "attention_mask": mask}, tmp_path / "tokens.safetensors")
    for name in ("tokens.npz", "tokens.safetensors"):
        first = next(iter(open_samples(tmp_path / name, TOKENS).calibration_batches(4, images=8)))
        assert isinstance(first, tuple)
        assert [tuple(tensor.shape) for tensor in first] == [(4, 5), (4, 5)]
        assert bool((first[0][:, 1:] - first[0][:, :-1] == 1).all()), "the first is input_ids"


def test_uint8_arrays_are_normalised_and_floats_are_not(tmp_path: Path) -> None:
    pixels = np.arange(10 * 8 * 8 * 3, dtype=np.int64).reshape(10, 8, 8, 3).astype(np.uint8)
    np.save(tmp_path / "last.npy", pixels)
    np.save(tmp_path / "first.npy", pixels.transpose(0, 3, 1, 2))
    np.save(tmp_path / "floats.npy", pixels.transpose(0, 3, 1, 2).astype(np.float64))
    last, first, floats = (every_row(open_samples(tmp_path / f"{name}.npy"))[0] for name in ("last", "first", "floats"))
    assert torch.equal(last, first)
    torch.testing.assert_close(first, (floats / 255 - 0.5) / 0.25)


@pytest.mark.parametrize("factory", ["tensor", "singles", "batches", "mapping", "dataset"])
def test_a_factory_of_inputs(tmp_path: Path, factory: str) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "A = torch.arange(60).reshape(12, 5)\n"
        "def tensor(): return A, A\n"
        "def singles(): return ((a, a) for a in A)\n"
        "def batches(): return ((a, a) for a in A.split(4))\n"
        "def mapping(): return {'attention_mask': A, 'input_ids': A}\n"
        "class Set:\n"
        "    def __len__(self): return 12\n"
        "    def __getitem__(self, i): return {'input_ids': A[i], 'attention_mask': A[i]}\n"
        "def dataset(): return Set()\n"
    )
    data = open_samples(f"{tmp_path}/mine.py:{factory}", TOKENS)
    assert (data.train_size, data.val_size) == (10, 2)


GUIDED = (
    ModelInput((), name="guidance", batch_dim=None),
    ModelInput((4, 3), batch_dim=1, name="x"),
    ModelInput((), name="t"),
)
GUIDED_FACTORY = """
import torch
x, t = torch.randn(20, 4, 3), torch.rand(20)
def singles(): return [(2.0, x[i], t[i]) for i in range(20)]
def batches(): return ({"x": x[i:i + 6], "t": t[i:i + 6], "guidance": torch.tensor(2.0)} for i in range(0, 20, 6))
def stacked(): return {"guidance": 2.0, "x": x, "t": t}
def differing(): return [(float(i % 3), x[i], t[i]) for i in range(20)]
"""


@pytest.mark.parametrize("factory", ["singles", "batches", "stacked", "file"])
def test_a_number_that_all_samples_share(tmp_path: Path, factory: str) -> None:
    (tmp_path / "mine.py").write_text(GUIDED_FACTORY)
    arrays = {"guidance": np.float32(2), "x": np.random.rand(20, 4, 3), "t": np.random.rand(20)}
    np.savez(tmp_path / "d.npz", **arrays)
    data = open_samples(f"{tmp_path}/{'d.npz' if factory == 'file' else f'mine.py:{factory}'}", GUIDED)
    assert (data.train_size, data.val_size, data.batch_dims) == (16, 4, (None, 1, 0))
    (batch,) = data.calibration_batches(5, images=5)
    assert [tuple(tensor.shape) for tensor in batch] == [(), (4, 5, 3), (5,)]
    assert batch[0] == 2


def test_a_shared_number_that_differs_and_a_number_of_a_sample_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(GUIDED_FACTORY)
    with raises_error(DataError, "data/shared-input", "guidance"):
        open_samples(f"{tmp_path}/mine.py:differing", GUIDED)
    t = np.where(np.arange(20) == 7, np.nan, 0.5)
    np.savez(tmp_path / "d.npz", guidance=np.float32(2), x=np.random.rand(20, 4, 3), t=t)
    with raises_error(DataError, "data/not-finite", "row 7"):
        open_samples(tmp_path / "d.npz", GUIDED)


GRAPH = ModelInput((5, 4), name="nodes", batch_dim=None), ModelInput((2, 9), "int64", (0, 4), "edges", None)
GRAPHS = """
import torch
graph = torch.randn(5, 4), torch.zeros(2, 9, dtype=torch.int64)
def several(): return [graph] * 20
def one(): return graph
"""


@pytest.mark.parametrize("samples", ["graph.npz", "mine.py:several", "mine.py:one"])
def test_a_model_without_a_batch_takes_no_samples(tmp_path: Path, samples: str) -> None:
    (tmp_path / "mine.py").write_text(GRAPHS)
    np.savez(tmp_path / "graph.npz", nodes=np.zeros((5, 4), np.float32), edges=np.zeros((2, 9), int))
    with raises_error(DataError, "data/no-batch-dimension", samples):
        open_samples(tmp_path / samples, GRAPH)
    with raises_error(DataError, "data/no-batch-dimension", "noise"):
        open_samples("noise", GRAPH)


def test_noise_is_taken_only_where_it_is_asked_for_by_name() -> None:
    one, same, other = (every_row(open_samples(name))[0] for name in ("noise", "noise:0", "noise:1"))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert abs(float(one.mean())) < 0.05


@pytest.mark.parametrize(
    ("values", "code", "place"),
    [
        (np.zeros((1, *IMAGE), np.float32), "data/too-few-samples", ""),
        (np.ones((9, *IMAGE), np.float32), "data/equal-samples", ""),
        (np.random.default_rng(0).random((9, 3, 8, 9), np.float32), "data/sample-shape", "input"),
        (np.arange(9 * 192).reshape(9, *IMAGE), "data/sample-type", "input"),
        (np.where(np.arange(9 * 192) == 400, np.nan, 1.0).reshape(9, *IMAGE), "data/not-finite", "row 2"),
    ],
)  # fmt: skip
def test_samples_that_the_model_does_not_take(tmp_path: Path, values: np.ndarray, code: str, place: str) -> None:
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(DataError) as caught:
        open_samples(tmp_path / "x.npy")
    assert caught.value.code == code
    assert place in caught.value.place


@pytest.mark.parametrize(("shape", "hint"), [((8, 8, 3), "transpose"), ((9, 9, 3), "resize"), ((3, 9, 9), "resize")])
def test_floats_with_channels_last_are_to_be_transposed(tmp_path: Path, shape: tuple[int, ...], hint: str) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((9, *shape), np.float32))
    with pytest.raises(DataError) as caught:
        open_samples(tmp_path / "x.npy")
    assert caught.value.code == "data/sample-shape"
    assert hint in caught.value.hint


def test_files_that_are_no_samples(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"no archive")
    (tmp_path / "x.txt").write_text("text")
    np.savez(tmp_path / "uneven.npz", input_ids=np.zeros((4, 5), int), attention_mask=np.zeros((3, 5), int))
    np.savez(tmp_path / "names.npz", ids=np.zeros((4, 5), int), attention_mask=np.zeros((4, 5), int))
    np.save(tmp_path / "code.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    for name in ("x.npz", "x.txt", "uneven.npz", "names.npz", "code.npy"):
        with pytest.raises(DataError, match=name):
            open_samples(tmp_path / name, TOKENS)
    pictures(tmp_path / "set")
    (tmp_path / "set" / "99.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"99\.png"):
        open_samples(tmp_path / "set")
    with pytest.raises(DataError, match="set"):
        open_samples(tmp_path / "set", TOKENS)


def test_samples_of_several_inputs_are_joined_by_input() -> None:
    data = noise_samples((ModelInput((2,)), ModelInput((3,), "int64", (0, 9))), seed=0, count=20)
    first, second = join_batches(data.calibration_batches(5, images=12))
    assert (first.shape, second.shape, second.dtype) == ((12, 2), (12, 3), torch.int64)
    assert torch.equal(first[:5], next(iter(data.calibration_batches(5, images=12)))[0])
