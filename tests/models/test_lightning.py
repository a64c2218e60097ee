"""Lightning's checkpoints of a user's module: `file.py:Class@ckpt`, built with the saved hyper-parameters."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from failures import raises_error
from torch import nn

from compressor.core import LoadedModel
from compressor.errors import ModelError
from compressor.models.plan_record import plan_json
from compressor.models.saved_model import WEIGHTS, load_folder
from compressor.models.source import load_model

CODE = """
import torch
from torch import nn

input_size = (3, 8, 8)

def network(width, classes):
    body = nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(width, classes))

class Base(nn.Module):
    def forward(self, x):
        return self.net(x)

class Plain(Base):
    def __init__(self, width, classes=2, lr=0.1, betas=(0.9, 0.99)):
        super().__init__()
        self.net = network(width, classes)
        self.criterion = nn.CrossEntropyLoss(weight=torch.ones(classes))

class AsOne(Base):
    def __init__(self, hparams):
        super().__init__()
        self.net = network(hparams.width, hparams["classes"])

class Anything(Base):
    def __init__(self, *, width, **kwargs):
        super().__init__()
        self.net = network(width, kwargs["classes"])

class Nested(Base):
    def __init__(self, net, lr=0.1):
        super().__init__()
        self.net = network(net["width"], net["heads"][0])

class TakesModule(Base):
    def __init__(self, net, lr=0.1):
        super().__init__()
        self.net = net
"""


class Attributes(dict[str, object]):
    """As Lightning's AttributeDict."""


def network(width: int, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
    )


def checkpoint(folder: Path, hyper_parameters: object, **more: object) -> Path:
    """A .ckpt of a module of width 5 with 3 classes."""
    (folder / "net.py").write_text(CODE)
    state = {f"net.{name}": value for name, value in network(5, 3).state_dict().items()}
    content = {
        "epoch": 1, "pytorch-lightning_version": "2.5.0", "state_dict": state | {"criterion.weight": torch.ones(3)},
        "callbacks": {}, "optimizer_states": [], "hyper_parameters": hyper_parameters, "hparams_name": "kwargs",
    }  # fmt: skip
    torch.save(content | more, folder / "last.ckpt")
    return folder / "last.ckpt"


SIZES = {"width": 5, "classes": 3}
SAVED: dict[str, tuple[str, object, dict[str, object], dict[str, object]]] = {
    "by name": ("Plain", SIZES | {"lr": 0.01}, {}, SIZES | {"lr": 0.01}),
    "more than it takes": ("Plain", SIZES | {"batch_size": 8}, {}, SIZES),
    "attributes": ("Plain", Attributes(SIZES), {}, SIZES),
    "namespace": ("Plain", argparse.Namespace(**SIZES), {}, SIZES),
    "a tuple": ("Plain", SIZES | {"betas": (0.8, 0.9)}, {}, SIZES | {"betas": [0.8, 0.9]}),
    "objects left out": ("Plain", SIZES | {"lr": nn.Linear(1, 1), "betas": [print]}, {}, SIZES),
    "as one": ("AsOne", SIZES, {"hparams_name": "hparams"}, {"hparams": SIZES}),
    "anything": ("Anything", SIZES | {"seed": 1}, {}, SIZES | {"seed": 1}),
    "nested": (
        "Nested",
        {"net": {"width": 5, "heads": [3], "act": nn.ReLU()}},
        {},
        {"net": {"width": 5, "heads": [3]}},
    ),
}


def load(name: str, folder: Path) -> LoadedModel:
    cls, hyper_parameters, more, _ = SAVED[name]
    return load_model(f"{folder / 'net.py'}:{cls}@{checkpoint(folder, hyper_parameters, **more)}")


@pytest.mark.parametrize("name", SAVED)
def test_built_with_the_saved_hyper_parameters(name: str, tmp_path: Path) -> None:
    loaded = load(name, tmp_path)
    assert loaded.spec.arguments == SAVED[name][3]
    saved = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    state = loaded.module.state_dict()
    assert all(torch.equal(value, saved[key]) for key, value in state.items())
    assert loaded.module(torch.zeros(2, 3, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize("name", ["by name", "as one", "nested"])
def test_an_output_folder_rebuilds_it(name: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    loaded = load(name, tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    (out / "plan.json").write_text(json.dumps(plan_json(loaded, {}, {})))
    save_file(loaded.module.state_dict(), out / WEIGHTS)
    (tmp_path / "last.ckpt").unlink()
    again = load_folder(out)
    assert again.spec == loaded.spec
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(again.module(x), loaded.module(x))


@pytest.mark.parametrize(("cls", "argument"), [("TakesModule", "net"), ("Plain", "width")])
def test_an_argument_that_was_not_saved_as_data(cls: str, argument: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path, {"net": network(5, 3), "classes": 3})
    with pytest.raises(ModelError) as caught:
        load_model(f"{tmp_path / 'net.py'}:{cls}@{path}")
    assert caught.value.exit_code == 3
    assert f"needs {argument}" in caught.value.problem


def test_a_function_is_called_as_it_is(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, {"width": 9})
    (tmp_path / "net.py").write_text(CODE + "\ndef make(width=5):\n    return Plain(width, 3)\n")
    loaded = load_model(f"{tmp_path / 'net.py'}:make@{path}")
    assert loaded.spec.arguments == {}


def test_an_error_of_the_constructor_names_its_line(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, {"width": "wide", "classes": 3})
    with pytest.raises(ModelError) as caught:
        load_model(f"{tmp_path / 'net.py'}:Plain@{path}")
    assert "net.py" in caught.value.place


def test_a_checkpoint_alone_asks_for_its_class_first(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, SIZES)
    with raises_error(ModelError, "checkpoint/unknown-architecture") as caught:
        load_model(str(path))
    assert caught.value.hint.index(f"Class@{path}") < caught.value.hint.index("model.arch")
