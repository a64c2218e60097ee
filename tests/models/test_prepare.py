"""Wrappers are peeled and computed weights folded, without changing what a module computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from failures import raises_error
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel

from compressor.errors import ModelError
from compressor.models.preparation.prepare import prepare_module, refuse_opaque
from compressor.models.source import load_model
from compressor.models.user_modules.user_module import build_module, import_factory

CODE = """
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

def make(norm=lambda layer: layer):
    torch.manual_seed(0)
    return nn.Sequential(norm(nn.Conv1d(4, 16, 3)), nn.ReLU(), norm(nn.Conv1d(16, 2, 3)))
def new(): return make(parametrizations.weight_norm)
def wrapped(): return nn.DataParallel(make())
def pruned(): return make(lambda layer: prune.l1_unstructured(layer, "weight", 0.5))
def scripted(): return torch.jit.script(make())
def example_inputs(): return torch.randn(1, 4, 24)
"""

Wrap = Callable[[nn.Module], nn.Module]


def chain(wrap: Wrap) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(wrap(nn.Conv1d(4, 8, 3)), nn.ReLU(), wrap(nn.Conv1d(8, 8, 3)), nn.Conv1d(8, 2, 1))


def old_weight_norm(layer: nn.Module) -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(layer)


def pruned_twice(layer: nn.Module) -> nn.Module:
    prune.ln_structured(layer, "weight", 0.5, n=1, dim=0)
    prune.l1_unstructured(layer, "bias", 0.5)
    return prune.l1_unstructured(layer, "weight", 0.2)


@pytest.mark.parametrize(
    "wrap",
    [
        old_weight_norm,
        nn.utils.spectral_norm,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        pruned_twice,
    ],
)
def test_computed_weights_become_plain_ones(wrap: Wrap) -> None:
    module, plain = chain(wrap).train(), chain(lambda layer: layer)
    module(torch.randn(2, 4, 24))  # spectral norm is estimated while training
    x = torch.randn(2, 4, 24)
    expected = module.eval()(x)
    prepared, notes = prepare_module(module)
    assert prepared is module
    folded = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert set(module.state_dict()) == set(plain.state_dict())
    module.load_state_dict(plain.state_dict())
    module.load_state_dict(folded)
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert not any(parametrize.is_parametrized(part) or part._forward_pre_hooks for part in module.modules())
    assert torch.allclose(module(x), expected, atol=1e-6)
    assert all("0, 2" in note for note in notes)
    assert len(notes) == 1


def test_frozen_parametrizations_stay_frozen() -> None:
    layer = parametrizations.weight_norm(nn.Linear(3, 3)).requires_grad_(False)
    prepare_module(layer)
    assert not layer.weight.requires_grad


@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0"])
def test_recurrent_layers_run_on_the_folded_weight(name: str) -> None:
    layer = prune.l1_unstructured(nn.LSTM(3, 4), name, 0.5)
    x = torch.randn(5, 1, 3)
    expected, _ = layer.eval()(x)
    prepare_module(layer)
    assert torch.equal(layer(x)[0], expected)
    with torch.no_grad():
        getattr(layer, name).zero_()
    assert not torch.equal(layer(x)[0], expected)


def test_wrappers_are_peeled_wherever_they_are() -> None:
    inner = chain(lambda layer: layer)
    module = nn.DataParallel(torch.compile(AveragedModel(nn.Sequential(nn.DataParallel(inner), nn.ReLU()))))
    prepared, notes = prepare_module(module)
    assert [type(part).__name__ for part in prepared.modules()].count("DataParallel") == 0
    assert type(prepared) is nn.Sequential
    assert set(prepared.state_dict()) == {f"0.{name}" for name in inner.state_dict()}
    assert len(notes) == 1


def test_compilation_in_place_is_taken_back() -> None:
    module = chain(lambda layer: layer)
    module[2].compile()
    prepared, notes = prepare_module(module)
    assert all(part._compiled_call_impl is None for part in prepared.modules())
    assert len(notes) == 1


def test_plain_modules_are_left_alone() -> None:
    module = chain(lambda layer: layer)
    before = module.state_dict()
    prepared, notes = prepare_module(module)
    assert (prepared, notes) == (module, ())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.fixture
def net(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(CODE)
    return tmp_path / "net.py"


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_script_modules_are_refused(net: Path) -> None:
    with raises_error(ModelError, "model/torchscript-module"):
        load_model(f"{net}:scripted")
    nested = nn.Sequential(nn.ReLU(), torch.jit.script(nn.Linear(2, 2)))
    with raises_error(ModelError, "model/torchscript-module", "here", "part 1"):
        refuse_opaque(nested, "here")


@pytest.mark.filterwarnings("ignore:torch.quantize:UserWarning")
def test_quantised_modules_are_refused() -> None:
    quantised = nn.Sequential(nn.ReLU(), torch.ao.nn.quantized.Linear(2, 2))
    with raises_error(ModelError, "model/quantized-module", "here", "part 1"):
        refuse_opaque(quantised, "here")


@pytest.mark.parametrize("factory", ["new", "wrapped", "pruned"])
def test_checkpoints_from_before_and_after_fit(net: Path, factory: str, tmp_path: Path) -> None:
    """A checkpoint holds the names of the module that the factory returns, or those of what is inside it."""
    loaded = load_model(f"{net}:{factory}")
    for name, module in (
        ("before", build_module(import_factory(f"{net}:{factory}"), None)),
        ("after", build_module(import_factory(f"{net}:make"), None)),
    ):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.5)
        x = torch.randn(1, 4, 24)
        expected = module.eval()(x)
        torch.save(module.state_dict(), tmp_path / f"{name}.pt")
        again = load_model(f"{net}:{factory}@{tmp_path / name}.pt")
        assert torch.allclose(again.module(x), expected, atol=1e-5)
        assert set(again.module.state_dict()) == set(loaded.module.state_dict())
