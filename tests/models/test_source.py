"""What a user may write for MODEL, and what becomes of it. Downloads are replaced: tests use no network."""

import json
from pathlib import Path

import pytest
import torch
from failures import raises_error
from safetensors.torch import save_file
from torch import nn

from compressor.errors import ModelError, UntrustedFile
from compressor.models.build import build_named
from compressor.models.checkpoints import archive
from compressor.models.families.cifar_resnets import DIGITS
from compressor.models.missing_file import check_model_files
from compressor.models.source import load_model
from compressor.models.user_modules.trusted_pickle import rebuild_pickled


def test_random_weights_are_always_the_same() -> None:
    torch.manual_seed(5)
    first, before = load_model("cifar:resnet8"), torch.random.get_rng_state()
    torch.manual_seed(6)
    second = load_model("cifar:resnet8")
    assert all(torch.equal(a, b) for a, b in zip(first.module.parameters(), second.module.parameters(), strict=True))
    torch.manual_seed(5)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert "random" in first.notes[0]
    assert first.spec.num_classes == 10


def test_sizes_of_the_user() -> None:
    loaded = load_model("timm:resnet18", num_classes=3, input=(1, 64, 96))
    assert loaded.spec.input == (1, 64, 96)
    assert loaded.module(torch.zeros(1, 1, 64, 96)).shape == (1, 3)
    assert loaded.mean is None


@pytest.mark.parametrize(
    ("source", "settings", "code", "word"),
    [
        ("resnet56", {}, "model/unknown-architecture", "did you mean cifar:resnet56"),
        ("no-such-file.pt", {}, "model-file/no-such-file", "no-such-file.pt"),
        ("torchvision:resnet18@IMAGENET1K_V9", {}, "weights/unknown-name", "did you mean IMAGENET1K_V1"),
        ("timm:resnet18@IMAGENET", {}, "weights/unknown-name", "timm:resnet18@pretrained"),
        ("cifar:resnet56@digits", {}, "weights/unknown-name", "cifar:resnet8@digits"),
        ("cifar:resnet8@imagenet", {}, "weights/unknown-name", "'imagenet'"),
        ("cifar:resnet8", {"arch": "cifar:resnet14"}, "model/architecture-differs", "cifar:resnet14"),
    ],
)
def test_not_understood(source: str, settings: dict[str, str], code: str, word: str) -> None:
    with raises_error(ModelError, code, word):
        load_model(source, **settings)


def test_failed_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **settings: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    monkeypatch.setattr("timm.create_model", offline)
    for source in ("torchvision:resnet18@DEFAULT", "timm:resnet18@pretrained"):
        with raises_error(ModelError, "weights/download-failed", source, "OSError: Network is unreachable"):
            load_model(source)


def test_published_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    state = load_model("torchvision:resnet18").module.state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: state)
    loaded = load_model("torchvision:resnet18@IMAGENET1K_V1")
    assert torch.equal(loaded.module.state_dict()["fc.weight"], state["fc.weight"])
    assert (loaded.spec.source, loaded.spec.input) == ("torchvision:resnet18", (3, 224, 224))
    with raises_error(ModelError, "checkpoint/tensors-differ", "fc.weight is 1000x512, not 7x512"):
        load_model("torchvision:resnet18@DEFAULT", num_classes=7)


def test_checkpoint_file(tmp_path: Path) -> None:
    module = load_model("cifar:resnet14b", num_classes=5).module
    torch.save({"state_dict": module.state_dict()}, tmp_path / "mine.pth")
    loaded = load_model(str(tmp_path / "mine.pth"), input=(3, 48, 48))
    assert (loaded.spec.source, loaded.spec.input, loaded.spec.num_classes) == ("cifar:resnet14b", (3, 48, 48), 5)
    assert loaded.mean == (0.485, 0.456, 0.406)
    assert any("'state_dict'" in note for note in loaded.notes)
    named = load_model(str(tmp_path / "mine.pth"), arch="cifar:resnet14b")
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(named.module(x), module(x))


def test_trusted_module_is_its_own_architecture(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    torch.save(net, tmp_path / "whole.pt")
    with raises_error(UntrustedFile, "untrusted-file/pickle-with-code", "whole.pt") as caught:
        load_model(str(tmp_path / "whole.pt"))
    assert caught.value.exit_code == 4
    loaded = load_model(str(tmp_path / "whole.pt"), trust_pickle=True)
    assert loaded.spec.input == (1, 28, 28)
    assert torch.equal(loaded.module[0].weight, net[0].weight)
    with raises_error(ModelError, "model/whole-pickled-module"):
        build_named(loaded.spec)
    assert rebuild_pickled(loaded.spec)(torch.zeros(1, 1, 28, 28)).shape == (1, 2)
    torch.save(net.half(), tmp_path / "whole.pt")
    with raises_error(ModelError, "model-file/hash-differs"):  # its code does not run
        rebuild_pickled(loaded.spec)


def test_a_family_before_a_file_is_no_part_of_its_path(tmp_path: Path) -> None:
    (tmp_path / "yolo.pt").touch()
    check_model_files(f"ultralytics:{tmp_path}/yolo.pt")
    with raises_error(ModelError, "model-file/no-such-file"):
        check_model_files(f"ultralytics:{tmp_path}/other.pt")


@pytest.mark.parametrize(("source", "size"), [("cifar:resnet8", 8), ("cifar:resnet8x2", 16)])
def test_embedded_digits(source: str, size: int) -> None:
    assert DIGITS.keys() == {"cifar:resnet8", "cifar:resnet8x2"}
    loaded = load_model(f"{source}@digits")
    channels, height, width = loaded.spec.input
    assert (channels, height, width) == (1, size, size)
    assert {tensor.dtype for tensor in loaded.module.parameters()} == {torch.float32}
    assert loaded.spec.num_classes == 10
    assert loaded.module(torch.zeros(2, channels, height, width)).shape == (2, 10)
    assert len(loaded.mean) == len(loaded.std) == 1
    assert loaded.sha256


def test_a_folder_of_shards_needs_no_configuration(tmp_path: Path) -> None:
    state = load_model("cifar:resnet14b", num_classes=5).module.state_dict()
    names = list(state)
    shards = {"one.safetensors": names[:20], "two.safetensors": names[20:]}
    for file, part in shards.items():
        save_file({name: state[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    loaded = load_model(str(tmp_path))
    assert (loaded.spec.source, loaded.spec.num_classes) == ("cifar:resnet14b", 5)
    assert loaded.sha256


def test_other_weights_of_the_file_are_named_where_the_usual_ones_fit_nothing(tmp_path: Path) -> None:
    path = tmp_path / "gan.pth"
    network = load_model("cifar:resnet8").module.state_dict()
    torch.save({"netG": {"a.weight": torch.ones(3, 2)}, "netD": network}, path)
    with raises_error(ModelError, "checkpoint/unknown-architecture", "--set model.weights=netD"):
        load_model(str(path))
    assert load_model(str(path), weights="netD").spec.source == "cifar:resnet8"


def test_a_checkpoint_of_many_processes_says_how_to_convert_it(tmp_path: Path) -> None:
    (tmp_path / ".metadata").touch()
    with raises_error(ModelError, "model-file/distributed-checkpoint", "dcp_to_torch"):
        load_model(str(tmp_path))


def test_arrays_of_numpy_may_be_larger_than_the_structure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_PICKLE_BYTES", 1000)
    path, state = tmp_path / "numpy.pth", load_model("cifar:resnet8").module.state_dict()
    torch.save({name: tensor.numpy() for name, tensor in state.items()}, path)
    assert torch.equal(load_model(str(path)).module.conv1.weight, state["conv1.weight"])
