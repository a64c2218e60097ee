"""A new source of architectures is one new module in compressor/models/families/."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from failures import raises_error

from compressor.core import ModelSpec, one_image
from compressor.errors import ModelError
from compressor.models import families as package
from compressor.models.build import build_named, model_defaults
from compressor.models.families import families, family_of
from compressor.models.source import load_model

TOY = """
from torch import nn

from compressor.models.families.base import Defaults, NamedFamily


class Toy(NamedFamily):
    prefix = "toy"
    rank = 9

    def names(self):
        return ["linear"]

    def defaults(self, name):
        return Defaults((1, 2, 2), 3, None, None)

    def build(self, spec, name):
        return nn.Sequential(nn.Flatten(), nn.Linear(4, spec.num_classes))


FAMILY = Toy()
"""


@pytest.fixture
def _toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    families.cache_clear()
    yield
    families.cache_clear()
    sys.modules.pop("compressor.models.families.toy", None)


def test_preferred_families_come_first() -> None:
    prefixes = [family.prefix for family in families()]
    preferred = [prefix for prefix in prefixes if prefix in ("", "cifar", "torchvision", "timm")]
    assert preferred == ["", "", "cifar", "torchvision", "timm"]


@pytest.mark.parametrize(
    ("source", "prefix"),
    [("timm:resnet26d", "timm"), ("cifar:resnet57", "cifar"), ("net.py:make", ""), ("timm:net.py:make", "")],
)
def test_form_of_a_source_decides(source: str, prefix: str) -> None:
    family = family_of(source)
    assert family is not None
    assert family.prefix == prefix


@pytest.mark.parametrize("source", ["resnet56", "weights.pt", "pickle:/x.pt", "toy:linear"])
def test_other_sources_have_no_family(source: str) -> None:
    assert family_of(source) is None


@pytest.mark.usefixtures("_toy")
def test_new_family_is_found_by_being_there() -> None:
    assert model_defaults("toy:linear").num_classes == 3
    module = build_named(ModelSpec("toy:linear", one_image((1, 2, 2)), 5))
    assert module(torch.zeros(2, 1, 2, 2)).shape == (2, 5)
    loaded = load_model("toy:linear")
    assert loaded.spec == ModelSpec("toy:linear", one_image((1, 2, 2)), 3)
    assert loaded.untrained


@pytest.mark.usefixtures("_toy")
def test_new_family_has_the_errors_of_all() -> None:
    with raises_error(ModelError, "model/unknown-architecture", "toy:linear"):
        load_model("toy:linea")
    with raises_error(ModelError, "weights/unknown-name", "toy:linear@best"):
        load_model("toy:linear@best")


@pytest.mark.parametrize("source", ["hf:folder", "ultralytics:yolo.pt", "net.onnx", "net.py:make"])
def test_files_and_folders_have_no_defaults(source: str) -> None:
    with raises_error(ModelError, "model/not-a-name", source):
        model_defaults(source)
