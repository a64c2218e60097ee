"""An output folder made by hand: the first convolution of every block loses channels, then everything comes back."""

import json
from pathlib import Path

import pytest
import torch
from failures import raises_error
from safetensors.torch import save_file
from torch import Tensor, nn

import compressor
from compressor.core import Cost, LoadedModel, ModelSpec, one_image
from compressor.errors import ModelError, UntrustedFile
from compressor.models.build import build_named
from compressor.models.plan_record import plan_json
from compressor.models.saved_model import load_folder
from compressor.models.source import load_model

KEPT = (0, 2, 3, 7, 11)
SPEC = ModelSpec("cifar:resnet8", one_image((3, 32, 32)), 10)


def slim_by_hand() -> tuple[nn.Module, LoadedModel, dict[str, dict[str, int | list[int]]]]:
    """resnet8 with 5 of the 16 channels between the two convolutions of its first block."""
    torch.manual_seed(0)
    module = build_named(SPEC)
    block = module.get_submodule("layer1.0")
    index = torch.tensor(KEPT)
    kept = {"layer1.0.conv1.weight": {0: KEPT}, "layer1.0.conv2.weight": {1: KEPT}}
    block.conv1.weight = nn.Parameter(block.conv1.weight[index].detach())
    block.conv2.weight = nn.Parameter(block.conv2.weight[:, index].detach())
    for name in ("weight", "bias", "running_mean", "running_var"):
        old = getattr(block.bn1, name)[index].detach()
        setattr(block.bn1, name, nn.Parameter(old) if name in ("weight", "bias") else old)
        kept[f"layer1.0.bn1.{name}"] = {0: KEPT}
    block.bn1.num_features = block.conv1.out_channels = block.conv2.in_channels = len(KEPT)
    attributes: dict[str, dict[str, int | list[int]]] = {
        "layer1.0.conv1": {"out_channels": 5},
        "layer1.0.bn1": {"num_features": 5},
        "layer1.0.conv2": {"in_channels": 5},
        "layer2.0.shortcut": {"padding": [0, 0, 0, 0, 8, 8]},
    }
    loaded = LoadedModel(module, SPEC, "mine.pt", mean=(0.5,) * 3, kept=kept, original=Cost(78042, 12_500_000))
    return module, loaded, attributes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    module, loaded, attributes = slim_by_hand()
    save_file(module.state_dict(), tmp_path / "slim.safetensors")
    (tmp_path / "plan.json").write_text(json.dumps(plan_json(loaded, attributes, {"layer1.0": "16 -> 5"})))
    return tmp_path


def test_round_trip(folder: Path) -> None:
    module, written, attributes = slim_by_hand()
    found = load_folder(folder)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(found.module(x), module(x))
        assert torch.equal(compressor.load(folder)(x), module(x))
    assert found.kept == written.kept
    assert (found.original, found.mean, found.std) == (written.original, written.mean, None)
    assert (found.spec, found.name) == (SPEC, "mine.pt")
    assert not found.module.training
    assert found.module.get_submodule("layer1.0.conv1").out_channels == 5
    assert found.module.get_submodule("layer2.0.shortcut").padding == (0, 0, 0, 0, 8, 8)
    assert plan_json(found, attributes, {"layer1.0": "16 -> 5"}) == json.loads((folder / "plan.json").read_text())
    assert load_model(str(folder)).kept == written.kept


def edit(folder: Path, path: str, value: object) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    *parents, last = path.split("/")
    part = plan
    for parent in parents:
        part = part[parent]
    if value is None:
        del part[last]
    else:
        part[last] = value
    (folder / "plan.json").write_text(json.dumps(plan))


@pytest.mark.parametrize(
    ("path", "value", "code", "word"),
    [
        ("version", 2, "output-folder/malformed-record", "version"),
        ("kept", None, "output-folder/malformed-record", "kept"),
        ("weights_sha256", "0" * 64, "output-folder/hash-differs", "000000000000"),
        ("model/source", "cifar:resnet9", "model/unknown-architecture", "cifar:resnet9"),
        ("model/source", "cifar:resnet14", "output-folder/tensors-differ", "missing"),
        ("model/num_classes", 9, "output-folder/tensors-differ", "linear.weight is 10x64, not 9x64"),
        (
            "kept/layer1.0.conv1.weight/0",
            [0, 1, 2],
            "output-folder/shape-differs",
            "5x16x3x3, but plan.json keeps 3x16x3x3",
        ),
        ("kept/layer1.0.conv1.weight/0", [0, 1, 2, 3, 16], "output-folder/index-out-of-range", "5 indices"),
        ("kept/layer1.0.conv1.weight/0", [0, 1, 2, 3, 3], "output-folder/index-out-of-range", "5 indices"),
        ("kept/layer1.0.conv1.weight/0", "all", "output-folder/malformed-record", "kept.layer1.0.conv1.weight.0"),
        ("kept/layer1.0.conv1.weight/4", [0], "output-folder/index-out-of-range", "dimension 4"),
        (
            "kept/layer1.0.conv1.weight",
            None,
            "output-folder/tensors-differ",
            "layer1.0.conv1.weight is 5x16x3x3, not 16x16x3x3",
        ),
        ("kept/no.such.weight", {"0": [1]}, "output-folder/unknown-tensor", "kept.no.such.weight"),
        ("attributes/layer1.0.conv1/forward", 3, "output-folder/unknown-attribute", "layer1.0.conv1.forward"),
        ("attributes/nowhere", {"out_channels": 3}, "output-folder/unknown-attribute", "nowhere.out_channels"),
    ],
)
def test_contradictions(folder: Path, path: str, value: object, code: str, word: str) -> None:
    edit(folder, path, value)
    with raises_error(ModelError, code, word) as caught:
        load_folder(folder)
    assert caught.value.exit_code == 3
    assert str(folder) in str(caught.value) or "cifar:resnet9" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "code", "word"),
    [
        ("slim.safetensors", None, "output-folder/no-such-file", "slim.safetensors"),
        ("slim.safetensors", b"", "output-folder/not-readable", "slim.safetensors"),
        ("plan.json", None, "output-folder/no-such-file", "plan.json"),
        ("plan.json", b"{", "output-folder/malformed-record", "plan.json"),
    ],
)
def test_missing_or_damaged(folder: Path, name: str, content: bytes | None, code: str, word: str) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with raises_error(ModelError, code, word) as caught:
        compressor.load(folder)
    assert caught.value.exit_code == 3


def test_no_such_folder(tmp_path: Path) -> None:
    with raises_error(ModelError, "output-folder/no-such-file", "none"):
        compressor.load(tmp_path / "none")


def test_code_that_came_with_the_folder_is_not_run(folder: Path) -> None:
    sentinel = folder / "executed"
    (folder / "net.py").write_text(f"open({str(sentinel)!r}, 'w')\n")
    edit(folder, "model/source", f"{folder / 'net.py'}:make")
    with raises_error(UntrustedFile, "output-folder/enclosed-code", "net.py") as caught:
        load_folder(folder)
    assert caught.value.exit_code == 4
    assert not sentinel.exists()


TIED = """
from torch import nn

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 6, bias=False)
        self.b = nn.Linear(4, 6, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.a(x) + 2 * self.b(x)
"""


@pytest.mark.parametrize("stored", [("a.weight",), ("b.weight",), ("a.weight", "b.weight")])
@pytest.mark.parametrize("listed", [("a.weight",), ("a.weight", "b.weight")])
def test_shared_weights_stay_shared(stored: tuple[str, ...], listed: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(TIED)
    folder = tmp_path / "out"
    folder.mkdir()
    weight: Tensor = torch.arange(8.0).reshape(2, 4)
    save_file({name: weight.clone() for name in stored}, folder / "slim.safetensors")
    spec = ModelSpec(f"{tmp_path / 'net.py'}:Tied", one_image((3, 8, 8)))
    loaded = LoadedModel(nn.Identity(), spec, "tied", kept={name: {0: (1, 4)} for name in listed})
    (folder / "plan.json").write_text(json.dumps(plan_json(loaded, {"a": {"out_features": 2}}, {})))
    module = compressor.load(folder)
    assert module.a.weight is module.b.weight
    assert torch.equal(module(torch.ones(1, 4)), 3 * weight.sum(1)[None])
