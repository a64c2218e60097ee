"""Files that take other lengths and image sizes than those they were traced with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from exports import export_onnx
from torch import Tensor, nn

from compressor.core import ModelInput
from compressor.recipe.recipe_config import ExportConfig


class Encoder(nn.Module):
    """Token ids and their mask through attention with positions; `fixed`: positions of one length only."""

    def __init__(self, fixed: bool = False) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(20, 8), nn.Parameter(torch.randn(12, 8))
        self.qkv, self.head, self.fixed = nn.Linear(8, 24), nn.Linear(8, 3), fixed

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        count, length = input_ids.shape
        x = self.words(input_ids) + (self.positions if self.fixed else self.positions[:length])
        q, k, v = self.qkv(x).view(count, length, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mask = attention_mask.view(count, 1, 1, length).bool()
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.head(mixed.transpose(1, 2).reshape(count, length, 8)).mean(1)


def tokens(count: int, length: int) -> tuple[Tensor, Tensor]:
    return torch.arange(count * length).reshape(count, length) % 20, torch.ones(count, length, dtype=torch.int64)


NAMES = ("input_ids", "attention_mask")


def exported(module: nn.Module, inputs: tuple[Tensor, ...], names: tuple[str, ...], path: Path, **settings: object):  # type: ignore[no-untyped-def]
    options = {"opset": None, "dynamic_batch": True, "dynamic_sizes": True, "metadata": {}, "names": names, **settings}
    done = export_onnx(module.eval(), inputs, path, **options)
    assert done.ok
    return done, onnxruntime.InferenceSession(path)


def test_equal_lengths_have_one_name_and_other_lengths_run(tmp_path: Path) -> None:
    module = Encoder()
    done, session = exported(module, tokens(2, 12), NAMES, tmp_path / "m.onnx")
    assert [node.shape for node in session.get_inputs()] == [["batch", "input_ids_dim_1"]] * 2
    assert not done.notes
    assert json.loads(session.get_modelmeta().custom_metadata_map["free_sizes"]) == {"input_ids_dim_1": 12}
    for count, length in ((1, 12), (3, 5), (2, 1)):
        inputs = tokens(count, length)
        (answer,) = session.run(None, {name: tensor.numpy() for name, tensor in zip(NAMES, inputs, strict=True)})
        assert np.allclose(answer, module(*inputs).detach(), atol=1e-5)


def test_a_length_that_the_network_fixes_stays_fixed(tmp_path: Path) -> None:
    _, session = exported(Encoder(fixed=True), tokens(2, 12), NAMES, tmp_path / "m.onnx")
    assert [node.shape for node in session.get_inputs()] == [["batch", 12]] * 2


def test_height_and_width_are_free_and_channels_are_not(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    _, session = exported(module, (torch.randn(2, 3, 20, 24),), ("image",), tmp_path / "m.onnx")
    assert session.get_inputs()[0].shape == ["batch", 3, "image_dim_2", "image_dim_3"]
    images = torch.randn(2, 3, 33, 17)
    (answer,) = session.run(None, {"image": images.numpy()})
    assert np.allclose(answer, module(images).detach(), atol=1e-5)


class Halves(nn.Module):
    """A value computed at one length is wrong at any other, and no guard of the tracer sees it."""

    def forward(self, x: Tensor) -> Tensor:
        return x * float(np.sqrt(int(x.numpy().shape[1]))) if not torch.compiler.is_exporting() else x * 12**0.5


def test_a_file_that_is_wrong_at_other_lengths_is_not_taken(tmp_path: Path) -> None:
    done, session = exported(Halves(), (torch.randn(2, 12),), ("x",), tmp_path / "m.onnx")
    assert session.get_inputs()[0].shape == ["batch", 12]
    assert any("free sizes" in note for note in done.notes)


@pytest.mark.parametrize(
    ("said", "integers", "frees"),
    [("auto", True, True), ("auto", False, False), (True, False, True), (False, True, False)],
)
def test_tokens_decide_unless_the_recipe_does(said: object, integers: bool, frees: bool) -> None:
    image, text = ModelInput((3, 8, 8)), ModelInput((12,), "int64", (0, 9), "input_ids")
    config = ExportConfig.model_validate({"dynamic_sizes": said})
    assert config.frees_sizes([image, text] if integers else [image]) is frees


class Decides(nn.Module):
    """Code that decides by a size: `crop` keeps the last tokens of long texts, `shrink` pools large images, `loop`
    halves until the image is small."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.conv = kind, nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "crop" and x.shape[3] > 60:
            x = x[..., -60:]
        if self.kind == "shrink" and max(x.shape[-2:]) > 40:
            x = nn.functional.max_pool2d(x, 2)
        while self.kind == "loop" and min(x.shape[-2:]) > 5:
            x = nn.functional.avg_pool2d(x, 2)
        return self.conv(x).relu().amax((2, 3))


@pytest.mark.parametrize("kind", ["crop", "shrink", "loop"])
def test_sizes_that_the_code_decides_by_stay_fixed(kind: str, tmp_path: Path) -> None:
    """The trace has one branch. Above 60 positions `crop` takes another, which only the tracer's range tells."""
    done, session = exported(Decides(kind), (torch.randn(2, 3, 12, 14),), ("image",), tmp_path / "m.onnx")
    assert session.get_inputs()[0].shape == ["batch", 3, 12, 14]
    assert any("free sizes" in note for note in done.notes)


def test_a_limit_that_the_network_has_by_itself_leaves_the_size_free(tmp_path: Path) -> None:
    """Longer texts than there are positions fail in the module as well as in the file."""
    done, session = exported(Encoder(), tokens(2, 10), NAMES, tmp_path / "m.onnx")
    assert [node.shape for node in session.get_inputs()] == [["batch", "input_ids_dim_1"]] * 2
    assert not done.notes
