"""The embedded data set and the embedded checkpoint."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
import torch
from safetensors import safe_open

from compressor.core import ModelSpec, one_image
from compressor.data.data_settings import DataSettings
from compressor.data.digits import digits_split
from compressor.data.open_data import open_data
from compressor.models.cifar import cifar_resnet
from compressor.training.evaluate import evaluate


def test_the_split_is_fixed_and_whole() -> None:
    train, val = digits_split("train", (1, 8, 8)), digits_split("val", (1, 8, 8))
    assert (train.images.shape, val.images.shape) == ((1500, 1, 8, 8), (297, 1, 8, 8))
    assert train.images.dtype == torch.uint8
    assert (int(train.images.min()), int(train.images.max())) == (0, 255)
    labels = torch.cat([train.targets, val.targets])
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # as published
    assert train.targets[:10].tolist() == [2, 8, 2, 6, 6, 7, 1, 9, 8, 5]
    together = torch.cat([train.images, val.images]).flatten(1)
    assert len(together.unique(dim=0)) == 1797  # no picture is in both


def test_other_sizes_and_channels_are_made_from_the_same_pixels() -> None:
    small, large = digits_split("val", (1, 8, 8)), digits_split("val", (3, 16, 16))
    assert large.images.shape == (297, 3, 16, 16)
    assert torch.equal(large.images[:, 0], large.images[:, 2])
    expected = torch.nn.functional.interpolate(small.images.float(), size=(16, 16), mode="bilinear")
    assert (large.images[:, :1] - expected).abs().max() <= 1


@pytest.mark.parametrize(("name", "accuracy"), [("resnet8", 98.99), ("resnet8x2", 98.99)])
def test_the_embedded_checkpoints_are_as_good_as_stated(name: str, accuracy: float) -> None:
    stored = files("compressor.models").joinpath(f"{name}-digits.safetensors")
    with safe_open(str(stored), "pt") as file:
        header = {key: json.loads(value) for key, value in file.metadata().items()}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    module = cifar_resnet(name, num_classes=10, in_channels=1)
    module.load_state_dict(state)
    spec = ModelSpec(name, one_image(tuple(header["input"])))
    settings = DataSettings("digits", mean=tuple(header["mean"]), std=tuple(header["std"]))
    data = open_data(settings, None, spec, num_classes=10)
    measured = open_data(DataSettings("digits"), None, spec)
    assert data.mean == pytest.approx(measured.mean, abs=1e-4)
    assert data.std == pytest.approx(measured.std, abs=1e-4)
    assert evaluate(module, data.val_batches(64), data.task.metric) == pytest.approx(
        accuracy, abs=0.35
    )  # one picture is 0.34


def test_both_files_stay_small() -> None:
    data = files("compressor.data").joinpath("digits.npz").read_bytes()
    names = ("resnet8-digits.safetensors", "resnet8x2-digits.safetensors")
    checkpoints = [files("compressor.models").joinpath(name).read_bytes() for name in names]
    assert len(data) + sum(map(len, checkpoints)) < 1_000_000
