"""One network in the many wrappings that trainings save it in: recognised, or loaded by code, with its own weights."""

from __future__ import annotations

import argparse
import enum
import pickle
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from compressor.core import ModelSpec, one_image
from compressor.errors import CompressorError, ModelError
from compressor.models.build import build_named
from compressor.models.source import load_model

ARCH = "cifar:resnet8"
State = dict[str, Tensor]


def state_of(seed: int, classes: int = 7, arch: str = ARCH) -> State:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return dict(build_named(ModelSpec(arch, one_image((3, 32, 32)), classes)).state_dict())


STATE, OTHER, LARGER = state_of(1), state_of(2), state_of(3, arch="cifar:resnet20")


def under(prefix: str, state: State = STATE) -> State:
    return {prefix + name: value for name, value in state.items()}


def in_numpy(state: State = STATE) -> dict[str, object]:
    return {name: value.numpy() for name, value in state.items()}


def body_and_head(prefix: str = "") -> State:
    return {f"{prefix}{'head' if name.startswith('linear.') else 'backbone'}.{name}": t for name, t in STATE.items()}


class History:
    """As trainers keep their logs: an object of a class that the reader of the file does not have."""

    def __init__(self) -> None:
        self.values, self.scores, self.when = [1.0], np.arange(3.0), datetime(2025, 1, 1)


class Attributes(dict[str, object]):
    """A dict that is read by attribute, as configurations are."""


class Mode(enum.Enum):
    TRAIN = "train"


@dataclass
class Settings:
    lr: float = 0.1
    mode: Mode = Mode.TRAIN


class Momentum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))


OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(4, 3), "step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}
FILES: dict[str, object] = {
    "any prefix": {"epoch": 3, "state_dict": under("encoder.")},
    "two words of prefix": {"state_dict": under("trainer.my_network.")},
    "weighted loss beside": {"state_dict": under("net.") | {"criterion.weight": torch.ones(7)}, "loops": {}},
    "class weights beside": {"state_dict": under("model.") | {"class_weights": torch.ones(7)}},
    "perceptual loss beside": {"state_dict": under("generator.") | under("loss.vgg.", LARGER)},
    "larger teacher beside": {"state_dict": under("student.") | under("teacher.", LARGER)},
    "queue beside": {
        "state_dict": under("module.encoder_q.")
        | under("module.encoder_k.", OTHER)
        | {"module.queue": torch.ones(16, 64), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    },
    "teacher beside": {"state_dict": under("teacher.", OTHER) | under("student.")},
    "projector beside": {"state_dict": under("backbone.") | {"projector.0.weight": torch.ones(8, 64)}},
    "student and teacher": {
        "student": under("module.backbone."), "teacher": under("module.backbone.", OTHER), "optimizer": OPTIMIZER
    },
    "network_weights": {"network_weights": STATE, "optimizer_state": OPTIMIZER, "init_args": {"fold": 0}},
    "generator and discriminator": {"generator": STATE, "discriminator": under("d.", OTHER), "g_optim": OPTIMIZER},
    "unknown generators": {"gen_ab": STATE, "dis_a": {"conv.weight": torch.ones(1, 3, 4, 4)}},
    "score as a tensor": {"best_acc1": torch.tensor(91.0), "my_net": STATE, "optim": OPTIMIZER},
    "list": [STATE, OPTIMIZER, 3],
    "modules apart": {"backbone": {n: t for n, t in STATE.items() if "linear" not in n},
                      "head": {n: t for n, t in STATE.items() if "linear" in n}, "optimizer": OPTIMIZER},
    "body and head": {"meta": {"epoch": 1}, "state_dict": body_and_head()},
    "body and head in parallel": {"state_dict": body_and_head("module.") | {"module.data_mean": torch.zeros(3)}},
    "numpy values": {"model": in_numpy(), "__author__": "someone"},
    "defaultdict": {"state_dict": defaultdict(list, STATE)},
    "history objects": {"state_dict": STATE, "message_hub": {"loss": History()}, "optimizer": OPTIMIZER},
    "configuration objects": {
        "model": OrderedDict(STATE), "cfg": Attributes(lr=0.1, mode=Mode.TRAIN), "settings": Settings(),
        "args": argparse.Namespace(out=Path("x")), "rng": np.random.RandomState(0), "when": datetime(2025, 1, 1),
    },
    "state dict of another class": {"state_dict": Attributes(STATE)},
    "loss module": {"net": STATE, "criterion": Momentum(), "ema_decay": 0.99},
}  # fmt: skip


def same_weights(module: nn.Module, state: State = STATE) -> bool:
    own = module.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[name], value) for name, value in state.items())


@pytest.fixture
def factory(tmp_path: Path) -> str:
    code = f"""
from compressor.core import ModelSpec, one_image
from compressor.models.build import build_named
input_size = (3, 32, 32)
def make():
    return build_named(ModelSpec({ARCH!r}, one_image((3, 32, 32)), 7))
"""
    (tmp_path / "net.py").write_text(code)
    return f"{tmp_path / 'net.py'}:make"


@pytest.mark.parametrize("name", FILES)
def test_recognised(name: str, tmp_path: Path) -> None:
    torch.save(FILES[name], tmp_path / "model.ckpt")
    loaded = load_model(str(tmp_path / "model.ckpt"))
    assert (loaded.spec.source, loaded.spec.num_classes) == (ARCH, 7)
    assert same_weights(loaded.module)


@pytest.mark.parametrize("name", FILES)
def test_loaded_by_code_and_by_name(name: str, tmp_path: Path, factory: str) -> None:
    path = tmp_path / "model.ckpt"
    torch.save(FILES[name], path, _use_new_zipfile_serialization=False)
    assert same_weights(load_model(f"{factory}@{path}").module)
    assert same_weights(load_model(str(path), arch=ARCH).module)


def test_unread_objects_are_named(tmp_path: Path) -> None:
    torch.save(FILES["history objects"], tmp_path / "model.ckpt")
    assert f"{__name__}.History" in " ".join(load_model(str(tmp_path / "model.ckpt")).notes)


PICKLES: dict[str, Callable[[int], bytes]] = {
    "numpy": lambda protocol: pickle.dumps({"model": in_numpy(), "matching_heuristics": True}, protocol),
    "tensors": lambda protocol: pickle.dumps({"state_dict": STATE}, protocol),
    "fortran order": lambda protocol: pickle.dumps(
        {name: value.copy(order="F") for name, value in in_numpy().items()}, protocol
    ),
    "big-endian": lambda protocol: pickle.dumps(
        {name: np.asarray(v, v.dtype.newbyteorder(">")) for name, v in in_numpy().items()}, protocol  # type: ignore[attr-defined]
    ),
}  # fmt: skip


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", PICKLES)
def test_plain_pickles(name: str, protocol: int, tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(PICKLES[name](protocol))
    assert same_weights(load_model(str(tmp_path / "model.pkl")).module)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_protocols_of_torch(protocol: int, tmp_path: Path) -> None:
    torch.save({"state_dict": STATE, "log": History()}, tmp_path / "model.pt", pickle_protocol=protocol)
    assert same_weights(load_model(str(tmp_path / "model.pt")).module)


AVERAGES: dict[str, tuple[object, str]] = {
    "timm": ({"state_dict": STATE, "state_dict_ema": OTHER}, "ema"),
    "nested": ({"model": STATE, "ema": {"module": OTHER, "updates": 3}}, "ema"),
    "full key": ({"model": STATE, "model_ema": OTHER}, "model_ema"),
    "teacher": ({"student": under("module."), "teacher": under("module.", OTHER)}, "teacher"),
    "generator": ({"discriminator": OTHER, "generator": STATE}, "discriminator"),
    "prefix": ({"state_dict": under("student.") | under("teacher.", OTHER)}, "teacher"),
    "deep prefix": ({"state_dict": under("module.encoder_q.") | under("module.encoder_k.", OTHER)}, "encoder_k"),
    "path": ({"a": {"net": STATE, "ema": OTHER}}, "a.ema"),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_weights_chosen_by_the_recipe(name: str, tmp_path: Path, factory: str) -> None:
    saved, wanted = AVERAGES[name]
    path = tmp_path / "model.pt"
    torch.save(saved, path)
    usual = load_model(str(path))
    assert same_weights(usual.module, STATE)
    assert any("model.weights=" in note for note in usual.notes)  # the default is not silent
    assert same_weights(load_model(str(path), weights=wanted).module, OTHER)
    assert same_weights(load_model(f"{factory}@{path}", weights=wanted).module, OTHER)


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    torch.save({"model": STATE, "ema": OTHER}, tmp_path / "model.pt")
    with pytest.raises(ModelError) as caught:
        load_model(str(tmp_path / "model.pt"), weights="swa")
    assert "ema" in caught.value.hint
    with pytest.raises(ModelError):
        load_model(ARCH, weights="ema")


def test_two_networks_are_not_taken_for_one(tmp_path: Path) -> None:
    """A part of a larger model is only taken where the user says so."""
    text = {f"text.{place}.weight": torch.ones(2, 2) for place in range(60)}
    torch.save(under("image_encoder.") | text, tmp_path / "clip.pt")
    with pytest.raises(ModelError) as caught:
        load_model(str(tmp_path / "clip.pt"))
    assert "model.weights=image_encoder" in caught.value.hint
    assert same_weights(load_model(str(tmp_path / "clip.pt"), weights="image_encoder").module)


def replaced(**heads: nn.Module) -> State:
    body = {name: value for name, value in STATE.items() if not name.startswith("linear.")}
    return body | {
        f"{name.replace('_in_', '.')}.{end}": value
        for name, head in heads.items()
        for end, value in head.state_dict().items()
    }


HEAD = nn.Linear(64, 5)


@pytest.mark.parametrize(
    ("state", "head"),
    [
        (replaced(linear=nn.Sequential(nn.Dropout(), HEAD)), None),
        (replaced(classifier=HEAD), None),
        (under("model.", replaced(linear=nn.Sequential(nn.Dropout(), HEAD))), None),
        ({**under("backbone.", replaced()), **{f"classifier.{n}": t for n, t in HEAD.state_dict().items()}}, None),
        (replaced(age=HEAD, sex=nn.Linear(64, 2)), "age"),
        (under("net.", replaced(heads_in_age=HEAD, heads_in_sex=nn.Linear(64, 2))), "heads.age"),
    ],
    ids=["sequential", "renamed", "prefix", "beside the body", "one of two", "one of two in a list"],
)
def test_replaced_head(state: State, head: str | None, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "model.pt")
    for arch in ("auto", ARCH):
        loaded = load_model(str(tmp_path / "model.pt"), arch=arch, head=head)
        assert (loaded.spec.source, loaded.spec.num_classes) == (ARCH, 5)
        expected = {**STATE, "linear.weight": HEAD.weight, "linear.bias": HEAD.bias}
        assert same_weights(loaded.module, expected)


@pytest.mark.parametrize(
    ("state", "head"),
    [
        (replaced(age=HEAD, sex=nn.Linear(64, 2)), None),
        (replaced(linear=nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5))), None),
        (replaced(linear=nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5))), "linear.2"),
        (replaced(linear=nn.Linear(64, 5, bias=False)), None),
    ],
    ids=["two heads", "several layers", "the last of several layers", "no bias"],
)
def test_heads_that_shapes_do_not_tell(state: State, head: str | None, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ModelError) as caught:
        load_model(str(tmp_path / "model.pt"), head=head)
    assert ARCH in caught.value.problem


LORA = {"linear.lora_A.default.weight": torch.ones(4, 64), "linear.lora_B.default.weight": torch.ones(7, 4)}


@pytest.mark.parametrize(
    "state",
    [
        under("base_model.model.", {n.replace("linear.", "linear.base_layer."): t for n, t in STATE.items()} | LORA),
        LORA,
        {"unet.linear.lora_down.weight": torch.ones(4, 64), "unet.linear.lora_up.weight": torch.ones(7, 4)},
    ],
    ids=["peft", "adapter alone", "kohya"],
)
def test_adapters_that_are_not_merged(state: State, tmp_path: Path, factory: str) -> None:
    path = tmp_path / "model.pt"
    torch.save(state, path)
    for source, arch in ((str(path), "auto"), (str(path), ARCH), (f"{factory}@{path}", "auto")):
        with pytest.raises(ModelError) as caught:
            load_model(source, arch=arch)
        assert "merge_and_unload" in caught.value.hint
        assert "linear" in caught.value.problem


def test_the_nearest_is_named_without_its_prefix(tmp_path: Path) -> None:
    narrow = {**STATE, "layer1.0.conv1.weight": torch.ones(8, 16, 3, 3)}
    torch.save(under("module.net.", narrow) | {"criterion.weight": torch.ones(3)}, tmp_path / "model.pt")
    with pytest.raises(ModelError) as caught:
        load_model(str(tmp_path / "model.pt"))
    assert f"nearest: {ARCH} (1 of another shape" in caught.value.problem


def test_folder_of_weights(tmp_path: Path) -> None:
    save_file(under("timm_model."), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    loaded = load_model(str(tmp_path))
    assert same_weights(loaded.module)
    assert loaded.name == str(tmp_path)


@pytest.mark.parametrize("saved", [{"optimizer": OPTIMIZER, "epoch": 1}, {"losses": [torch.ones(2)]}, {}, [1, 2]])
def test_nothing_of_a_model(saved: object, tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "model.pt")
    with pytest.raises(CompressorError) as caught:
        load_model(str(tmp_path / "model.pt"))
    assert caught.value.exit_code == 3


def test_a_code_prefix_that_the_file_lacks(tmp_path: Path) -> None:
    """The user's module wraps the network, the file does not, or wraps it otherwise."""
    code = """
from torch import nn
input_size = (3, 8, 8)
class Wrapper(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    def forward(self, x):
        return self.net(x)
"""
    (tmp_path / "wrapper.py").write_text(code)
    state = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).state_dict()
    for prefix in ("", "model.", "module.net.", "a.b.c."):
        torch.save(under(prefix, state), tmp_path / "w.pt")
        loaded = load_model(f"{tmp_path / 'wrapper.py'}:Wrapper@{tmp_path / 'w.pt'}")
        assert torch.equal(loaded.module.net[3].weight, state["3.weight"])
