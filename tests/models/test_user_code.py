"""A user's own file: imported, called, and blamed by line when it fails."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from failures import raises_error
from torch import Tensor, nn

from compressor.core import ModelInput
from compressor.errors import ModelError
from compressor.models.inputs.user_inputs import inputs_that_run
from compressor.models.source import load_model
from compressor.recipe import read_recipe
from compressor.recipe.inputs import load_inputs
from compressor.run_log import RunLog

NET = """
import torch
from torch import nn
import helper

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(helper.CHANNELS, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.head(self.model(x))

def make(num_classes=10):
    return Net(num_classes)

class Shell(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = Net(10)

    def forward(self, x):
        return self.model(x)

def broken():
    return nn.Linear(3)

def wrong():
    return "a module"

def small():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)).double()

def odd():
    return nn.Linear(5, 2)

def lazy():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.LazyConv2d(4, 3))

def noisy():
    import random
    import numpy
    layer = nn.Linear(3 * 32 * 32, 2)
    layer.bias.data = torch.tensor([random.random(), numpy.random.rand()])
    return nn.Sequential(nn.Flatten(), layer)
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text("CHANNELS = 1\n")
    (tmp_path / "net.py").write_text(NET)
    return tmp_path / "net.py"


def test_factory(net: Path) -> None:
    loaded = load_model(f"{net}:make", num_classes=7)
    assert loaded.spec.input == (1, 28, 28)
    assert loaded.module(torch.zeros(1, 1, 28, 28)).shape == (1, 7)
    assert "1x28x28" in loaded.notes[-1]
    again = load_model(f"{net}:make", num_classes=7)
    assert torch.equal(loaded.module.head.weight, again.module.head.weight)


@pytest.mark.parametrize("checkpoint", ["", "@{}/w.pt"], ids=["alone", "with a checkpoint"])
def test_a_file_runs_once_for_a_model(net: Path, checkpoint: str, tmp_path: Path) -> None:
    """Whoever registers layers or opens files at import must not do it twice."""
    log = tmp_path / "runs"
    net.write_text(net.read_text() + f"\nwith open({str(log)!r}, 'a') as log:\n    log.write('run ')\n")
    convolution = {f"model.0.{name}": tensor for name, tensor in nn.Conv2d(1, 4, 3).state_dict().items()}
    torch.save({**convolution, "head.weight": torch.ones(10, 4), "head.bias": torch.ones(10)}, tmp_path / "w.pt")
    load_model(f"{net}:make{checkpoint.format(tmp_path)}")
    assert log.read_text() == "run "


def test_a_factory_draws_equal_numbers_whatever_it_draws_from(net: Path) -> None:
    state = random.getstate(), np.random.get_state()[2]
    first, second = (load_model(f"{net}:noisy").module[1].bias for _ in range(2))
    assert torch.equal(first, second)
    assert (random.getstate(), np.random.get_state()[2]) == state


def test_smaller_input_and_float32(net: Path) -> None:
    loaded = load_model(f"{net}:small")
    assert loaded.spec.input == (3, 32, 32)
    assert {p.dtype for p in loaded.module.parameters()} == {torch.float32}


@pytest.mark.parametrize("line", ["input_size = (1, 12, 12)", "example_input = torch.zeros(2, 1, 12, 12)"])
def test_named_input(net: Path, line: str) -> None:
    net.write_text(f"{NET}\n{line}\n")
    assert load_model(f"{net}:make").spec.input == (1, 12, 12)


def test_given_input_wins(net: Path) -> None:
    assert load_model(f"{net}:make", input=(1, 9, 9)).spec.input == (1, 9, 9)


@pytest.mark.parametrize("factory", ["make", "Shell"])
def test_checkpoint(net: Path, factory: str, tmp_path: Path) -> None:
    """Shell's tensors all start with `model.`, which looks like a prefix to peel."""
    module: nn.Module = load_model(f"{net}:{factory}", input=(1, 28, 28)).module
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(0.5)
    torch.save({"state_dict": module.state_dict()}, tmp_path / "w.pt")
    for loaded in (
        load_model(f"{net}:{factory}@{tmp_path / 'w.pt'}"),
        load_model(str(tmp_path / "w.pt"), arch=f"{net}:{factory}"),
    ):
        assert all(bool((p == 0.5).all()) for p in loaded.module.parameters())
        assert loaded.sha256 is not None


def test_tensors_of_modules_that_only_training_uses_are_left_out(net: Path, tmp_path: Path) -> None:
    """Speech encoders are saved with the scale of their loss, networks with a projection that is dropped later."""
    state = load_model(f"{net}:make", input=(1, 28, 28)).module.state_dict()
    beside = {"similarity_weight": torch.ones(1), "projection.0.weight": torch.ones(4, 4)}
    torch.save(state | beside, tmp_path / "w.pt")
    loaded = load_model(f"{net}:make@{tmp_path / 'w.pt'}")
    assert all(torch.equal(loaded.module.state_dict()[name], tensor) for name, tensor in state.items())
    assert any("left out 2 tensors" in note and "similarity_weight" in note for note in loaded.notes)


@pytest.mark.parametrize(
    "beside",
    [{"head.scale": torch.ones(1)}, {f"stage{number}.weight": torch.ones(4) for number in range(9)}],
    ids=["in a module of the network", "another network"],
)
def test_tensors_that_the_network_may_lack_are_refused(beside: dict[str, Tensor], net: Path, tmp_path: Path) -> None:
    state = load_model(f"{net}:make", input=(1, 28, 28)).module.state_dict()
    torch.save(state | beside, tmp_path / "w.pt")
    with raises_error(ModelError, "checkpoint/tensors-differ", f"{len(beside)} extra ({next(iter(beside))}"):
        load_model(f"{net}:make@{tmp_path / 'w.pt'}")


def test_checkpoint_of_something_else(net: Path, tmp_path: Path) -> None:
    torch.save({"head.weight": torch.ones(3, 4), "other": torch.ones(1)}, tmp_path / "w.pt")
    with raises_error(
        ModelError, "checkpoint/tensors-differ", "3 missing", "1 extra (other)", "head.weight is 3x4, not 10x4"
    ):
        load_model(f"{net}:make@{tmp_path / 'w.pt'}")


@pytest.mark.parametrize(
    ("factory", "code", "values"),
    [
        ("broken", "model-code/user-code-raised", ("net.py:27", "TypeError")),
        ("wrong", "model-code/not-a-module", ("net.py:wrong", "str")),
        ("odd", "model-input/no-usual-size-runs", ("3x224x224", "RuntimeError", "mat1 and mat2")),
        ("lazy", "model-code/lazy-parameters", ("net.py:lazy", "1.weight, 1.bias")),
        ("nothing", "model-code/no-such-callable", ("net.py:nothing", "Net, make")),
        ("", "model-code/no-such-callable", ("net.py",)),
    ],
)
def test_errors_name_the_line(net: Path, factory: str, code: str, values: tuple[str, ...]) -> None:
    with raises_error(ModelError, code, *values):
        load_model(f"{net}:{factory}")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("def make(:\n", ("bad.py:1", "SyntaxError")),
        ("\nimport no_such_module_of_mine\n", ("bad.py:2", "ModuleNotFoundError", "install no_such_module_of_mine")),
        ("\nfrom os import no_such_name\n", ("bad.py:2", "ImportError", "install")),
        ("import sys\n\nsys.exit('bye')\n", ("bad.py:3", "SystemExit: bye")),
    ],
)
def test_files_that_do_not_import(text: str, values: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(text)
    with raises_error(ModelError, "model-code/user-code-raised", *values):
        load_model(f"{tmp_path / 'bad.py'}:make")


def test_no_such_file(tmp_path: Path) -> None:
    with raises_error(ModelError, "model-code/no-such-file", "none.py"):
        load_model(f"{tmp_path / 'none.py'}:make")


SEQUENCES = """
import torch
from torch import nn


class Voices(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, mels):
        return self.head(self.lstm(mels)[0][:, -1])


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.scale = nn.Embedding(9, 4), nn.Linear(2, 4)

    def forward(self, tokens, lengths):
        return self.words(tokens).mean(1) * self.scale(lengths)
"""


def _inputs(source: str, data: Path) -> tuple[ModelInput, ...]:
    with RunLog() as log:
        model, _ = load_inputs(source, read_recipe("minutes"), str(data), log, trust_pickle=False, needs_data=False)
    return model.spec.inputs


def test_samples_show_what_a_network_takes(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(SEQUENCES)
    np.save(tmp_path / "mels.npy", np.random.default_rng(0).normal(size=(20, 11, 6)))
    assert _inputs(f"{tmp_path / 'nets.py'}:Voices", tmp_path / "mels.npy") == (ModelInput((11, 6)),)
    numbers = np.random.default_rng(0)
    pair = {"lengths": numbers.random((20, 2), np.float32), "tokens": numbers.integers(0, 9, (20, 5))}
    np.savez(tmp_path / "pair.npz", **pair)
    tokens, lengths = _inputs(f"{tmp_path / 'nets.py'}:Pair", tmp_path / "pair.npz")
    assert (tokens.name, tokens.shape, tokens.dtype) == ("tokens", (5,), "int64")
    assert (lengths.name, lengths.shape, lengths.dtype) == ("lengths", (2,), "float32")


def test_images_of_bytes_do_not_show_what_a_network_takes(net: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (20, 28, 28, 1), np.uint8))
    assert _inputs(f"{net}:make", tmp_path / "images.npy") == (ModelInput((1, 28, 28)),)


def test_samples_that_do_not_fit_are_named_first(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(SEQUENCES)
    np.save(tmp_path / "mels.npy", np.zeros((20, 11, 7), np.float32))
    with raises_error(ModelError, "model-input/no-usual-size-runs", "none of 11x7, 3x224x224", "Expected 6, got 7"):
        _inputs(f"{tmp_path / 'nets.py'}:Voices", tmp_path / "mels.npy")


TWO = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(6, 8)

    def forward(self, left, right{star}):
        return self.a(left) + self.b(right)

def example_inputs():
    return {{"right": torch.rand(2, 6), "left": torch.rand(2, 4)}}
"""


def test_a_dict_shows_inputs_by_the_parameters_they_are_for(tmp_path: Path) -> None:
    path = tmp_path / "two.py"
    path.write_text(TWO.format(star=""))
    inputs = load_model(f"{path}:Two").spec.inputs
    assert [(one.name, one.shape) for one in inputs] == [("left", (4,)), ("right", (6,))]
    path.write_text(TWO.format(star="").replace("self, left", "self, *, left"))
    with raises_error(ModelError, "model-input/malformed", "a dict of right, left", "wrap"):
        load_model(f"{path}:Two")


COMPLEX = """
import torch
from torch import nn

class Signal(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv1d(2, 4, 3)

    def forward(self, x):
        return self.a(torch.view_as_real(x).transpose(1, 2))
"""


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_inputs_are_refused_whether_the_file_or_the_samples_show_them(tmp_path: Path, dtype: str) -> None:
    path, shown = tmp_path / "signal_net.py", f"torch.ones(2, 8, dtype=torch.{dtype})"
    path.write_text(f"{COMPLEX}\n\ndef example_inputs():\n    return {shown}\n")
    with raises_error(ModelError, "model-input/complex", dtype, "view_as_complex"):
        load_model(f"{path}:Signal")
    module, ones = torch.nn.Identity(), torch.ones(2, 8, dtype=getattr(torch, dtype))
    with raises_error(ModelError, "model-input/complex", dtype, "view_as_complex"):
        inputs_that_run(module, "here", lambda: {"input": ones})


@pytest.mark.parametrize(
    "line", ["from timm import nothing", "import timm.layers", "import timm; timm.layers"], ids=["name", "part", "use"]
)
def test_a_file_that_hides_the_package_it_imports_is_named(line: str, tmp_path: Path) -> None:
    """The package is loaded already where other models need it, but not in a run of its own."""
    (tmp_path / "timm.py").write_text(f"{line}\n\ndef make():\n    return None\n")
    loaded = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "timm"}
    for name in loaded:
        del sys.modules[name]
    try:
        with raises_error(ModelError, "model-code/user-code-raised") as caught:
            load_model(f"{tmp_path / 'timm.py'}:make")
    finally:
        sys.modules.pop("timm", None)
        sys.modules.update(loaded)
    assert caught.value.hint.startswith("rename timm.py")


def test_a_file_that_lacks_a_name_hides_no_package(tmp_path: Path) -> None:
    (tmp_path / "own_helper.py").write_text("")
    (tmp_path / "net.py").write_text("from own_helper import nothing\n\ndef make():\n    return None\n")
    with raises_error(ModelError, "model-code/user-code-raised") as caught:
        load_model(f"{tmp_path / 'net.py'}:make")
    assert "rename" not in caught.value.hint
