"""Wrappers and prefixes around a state dict, as people save them."""

import argparse
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from failures import raises_error
from safetensors.torch import save_file
from torch import Tensor, nn

from compressor.errors import ModelError, UntrustedFile
from compressor.models.checkpoints.checkpoint import read_checkpoint
from compressor.models.checkpoints.finite_weights import count_not_finite

SHARED = Path(__file__).resolve().parents[3] / "shared" / "checkpoints"
STATE = {"conv1.weight": torch.ones(4, 3, 3, 3), "bn1.weight": torch.full((4,), 2.0), "fc.bias": torch.zeros(10)}

AVERAGED = {name: value + 1 for name, value in STATE.items()}

WRAPPED: dict[str, tuple[object, tuple[str, ...]]] = {
    "plain": (STATE, ()),
    "state_dict": ({"state_dict": STATE, "epoch": 3, "best": 91.2}, ("'state_dict'",)),
    "model in state": ({"state": {"model": STATE}}, ("'state'", "'model'")),
    "unknown wrapper": ({"my_weights": STATE, "lr": 0.1}, ("'my_weights'",)),
    "plain before averaged": ({"state_dict_ema": AVERAGED, "state_dict": STATE}, ("left aside", "state_dict_ema")),
    "inside": ({"conv1._orig_mod.weight": STATE["conv1.weight"], **dict(list(STATE.items())[1:])}, ("_orig_mod.",)),
    "averaged model": (STATE | {"n_averaged": torch.tensor(3)}, ("n_averaged",)),
    "numpy scores": ({"model": STATE, "acc": np.float64(3), "best": np.float32(1), "h": np.ones(3)}, ("'model'",)),
    "profiled": (STATE | {"conv1.total_ops": torch.zeros(1)}, ("conv1.total_ops",)),
    "half": ({name: value.half() for name, value in STATE.items()}, ("torch.float16",)),
    "bfloat16": ({name: value.bfloat16() for name, value in STATE.items()}, ("torch.bfloat16",)),
    "parameters": ({name: nn.Parameter(value) for name, value in STATE.items()}, ()),
    "masked": (
        {
            "conv1.weight_orig": torch.ones(4, 3, 3, 3),
            "conv1.weight_mask": torch.ones(4, 3, 3, 3),
            "bn1.weight": STATE["bn1.weight"],
            "fc.bias": STATE["fc.bias"],
        },
        ("multiplied 1 masked",),
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_unwrapped(name: str, new: bool, tmp_path: Path) -> None:
    held, words = WRAPPED[name]
    path = tmp_path / "model.ckpt"
    torch.save(held, path, _use_new_zipfile_serialization=new)
    found = read_checkpoint(path)
    assert found.tensors.keys() == STATE.keys()
    for key, value in STATE.items():
        assert torch.equal(found.tensors[key], value)
        assert found.tensors[key].dtype == torch.float32
        assert not found.tensors[key].requires_grad
    for word in words:
        assert word in " ".join(found.notes)
    assert len(found.notes) >= bool(words)


def test_averaged_weights_only_when_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"model_ema": AVERAGED}, path)
    found = read_checkpoint(path)
    assert torch.equal(found.tensors["fc.bias"], AVERAGED["fc.bias"])
    assert "averaged (EMA)" in found.notes[0]


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_safetensors_by_content(name: str, tmp_path: Path) -> None:
    save_file(STATE, tmp_path / name)
    assert read_checkpoint(tmp_path / name).tensors.keys() == STATE.keys()


def test_arguments_beside_the_weights_are_read_past(tmp_path: Path) -> None:
    """What argparse makes, with paths in it: training scripts save it, and neither class has to run."""
    path = tmp_path / "model.pt"
    arguments = argparse.Namespace(lr=0.1, output=tmp_path, model=None)
    torch.save({"state_dict": STATE, "args": arguments, "arch": "resnet50"}, path)
    found = read_checkpoint(path)
    assert found.arch == "resnet50"
    assert found.tensors.keys() == STATE.keys()


class Prints:
    """Loading it prints."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("loaded",)


def test_no_automatic_trust(tmp_path: Path) -> None:
    """Harmless as it is, it asks to run a function; the user decides."""
    path = tmp_path / "model.pt"
    torch.save({"state_dict": STATE, "scores": Prints(), "arch": "resnet50"}, path)
    with pytest.raises(UntrustedFile, match=r"builtins\.print.*safetensors.*--trust-pickle"):
        read_checkpoint(path)
    trusted = read_checkpoint(path, trust_pickle=True)
    assert trusted.arch == "resnet50"
    assert trusted.tensors.keys() == STATE.keys()


def test_whole_module_when_trusted(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(nn.Linear(3, 2), path)
    found = read_checkpoint(path, trust_pickle=True)
    assert isinstance(found.module, nn.Linear)
    assert found.tensors.keys() == {"weight", "bias"}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the folder shared/checkpoints is not here")
def test_published_file() -> None:
    found = read_checkpoint(SHARED / "resnet20-12fca82f.th")
    assert sum(value.numel() for name, value in found.tensors.items() if "running" not in name) == 269_722
    assert found.notes == ("took the weights in 'state_dict'",)
    assert found.sha256.startswith("12fca82f")


class Net(nn.Module):
    """Tied weights and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(self.bn(self.conv(x)).mean((2, 3))))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Net]:
    path, net = tmp_path_factory.mktemp("exported") / "net.pt2", Net().eval()
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 8, 8),)), path)
    return path, net


def test_the_weights_of_an_exported_program(archive: tuple[Path, Net]) -> None:
    path, net = archive
    tensors = read_checkpoint(path).tensors
    expected = net.state_dict()
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'"use_pickle": false', b'"use_pickle": true ', "use_pickle"),
        (b'"sizes": [{"as_int": 4}, {"as_int": 3}', b'"sizes": [{"as_int": 4}, {"as_int": 9}', "out of bounds"),
        (b'"path_name": "weight_1"', b'"path_name": "weight_X"', "weight_X"),
    ],
)
def test_an_exported_program_that_does_not_hold_what_it_says(
    archive: tuple[Path, Net], tmp_path: Path, old: bytes, new: bytes, words: str
) -> None:
    path = tmp_path / "net.pt2"
    with zipfile.ZipFile(archive[0]) as before, zipfile.ZipFile(path, "w") as after:
        for name in before.namelist():
            after.writestr(name, before.read(name).replace(old, new))
    with raises_error(ModelError, "model-file/damaged", words):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("tensor", "count"),
    [
        (torch.tensor(float("inf")), 0),  # the bound of a clip
        (torch.full((3, 3), float("-inf")).triu(1), 0),  # the mask of causal attention
        (torch.full((3, 3), float("inf")).triu(1), 3),
        (torch.tensor([1.0, float("-inf")]), 1),
        (torch.full((3,), float("-inf")), 3),
        (torch.tensor(float("nan")), 1),
        (torch.tensor([0.0, float("nan"), float("-inf")]), 2),
        (torch.tensor([1, 2]), 0),
    ],
)
def test_infinite_bounds_and_masks_are_no_divergence(tensor: torch.Tensor, count: int) -> None:
    assert count_not_finite(tensor) == count


def test_packed_weights_of_quantized_layers_are_refused(tmp_path: Path) -> None:
    """As torch.ao.quantization.quantize_dynamic saves them: scales are tensors, weights are none."""
    state = {
        "0.scale": torch.tensor(1.0),
        "0.zero_point": torch.tensor(0),
        "0._packed_params.dtype": torch.qint8,
        "0._packed_params._packed_params": (torch.ones(2, 2), None),
    }
    torch.save(state, tmp_path / "quantized.pt")
    with raises_error(ModelError, "model-file/unsupported-tensor", "0._packed_params"):
        read_checkpoint(tmp_path / "quantized.pt")
