"""A copy computes what the original computes, and is a module of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from failures import raises_error
from torch import Tensor, fx, nn

from compressor.errors import ModelError
from compressor.execution.copies import copy_module


def stem() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))


class Taps(nn.Module):
    """Takes what inner layers write by forward hooks."""

    def __init__(self, register: Callable[[Taps], None]) -> None:
        super().__init__()
        self.taps: dict[str, Tensor] = {}
        self.stem = stem()
        self.head = nn.Conv2d(8, 2, 1)
        register(self)

    def keep(self, _: nn.Module, __: object, result: Tensor) -> None:
        self.taps["one"] = result

    def forward(self, x: Tensor) -> Tensor:
        self.stem(x)
        return self.head(self.taps["one"])


def by_closure(module: Taps) -> None:
    def hook(_: nn.Module, __: object, result: Tensor) -> None:
        module.taps["one"] = result

    module.stem[2].register_forward_hook(hook)


def by_closure_over_a_dict(module: Taps) -> None:
    taps = module.taps
    module.stem[2].register_forward_hook(lambda _, __, result: taps.__setitem__("one", result))


def by_default_value(module: Taps) -> None:
    def hook(_: nn.Module, __: object, result: Tensor, owner: Taps = module) -> None:
        owner.taps["one"] = result

    module.stem[2].register_forward_hook(hook)


def by_nested_closure(module: Taps) -> None:
    def keep(result: Tensor) -> None:
        module.taps["one"] = result

    def hook(_: nn.Module, __: object, result: Tensor) -> None:
        keep(result)

    module.stem[2].register_forward_hook(hook)


def by_method(module: Taps) -> None:
    module.stem[2].register_forward_hook(module.keep)


def by_replaced_forward(module: Taps) -> None:
    inner, layer = module.stem[2].forward, module.stem[2]

    def forward(x: Tensor) -> Tensor:
        module.taps["one"] = inner(x)
        return module.taps["one"]

    layer.forward = forward


@pytest.mark.parametrize(
    "register",
    [by_closure, by_closure_over_a_dict, by_default_value, by_nested_closure, by_method, by_replaced_forward],
)
def test_hooks_of_a_copy_write_into_the_copy(register: Callable[[Taps], None]) -> None:
    module = Taps(register).eval()
    x, y = torch.randn(2, 1, 3, 9, 9)
    with torch.no_grad():
        module(x)
        copied = copy_module(module)
        answer = copied(y)
        assert torch.equal(answer, module(y))
        for parameter in copied.stem.parameters():
            parameter.zero_()
        copied(x)
    assert not copied.taps["one"].any()
    assert module.taps["one"].any()


def test_functions_that_hold_nothing_of_the_module_are_shared() -> None:
    module = nn.TransformerEncoderLayer(8, 2, 16)
    assert copy_module(module).activation is module.activation


class ByMode(fx.GraphModule):
    """As torchvision's feature extractors: one graph for training, another for evaluation."""

    def __init__(self, root: nn.Module, train_graph: fx.Graph, eval_graph: fx.Graph) -> None:
        super().__init__(root, train_graph)
        self.train_graph, self.eval_graph = train_graph, eval_graph

    def train(self, mode: bool = True) -> ByMode:
        self.graph = self.train_graph if mode else self.eval_graph
        return super().train(mode)


def by_mode() -> ByMode:
    module = stem()
    train_graph, eval_graph = fx.Tracer().trace(module), fx.Tracer().trace(module)
    output = next(node for node in eval_graph.nodes if node.op == "output")
    with eval_graph.inserting_before(output):
        output.args = (eval_graph.call_function(torch.neg, (output.args[0],)),)
    return ByMode(module, train_graph, eval_graph)


@pytest.mark.parametrize("nested", [False, True])
def test_graph_modules_keep_class_mode_and_statistics(nested: bool) -> None:
    graph = by_mode()
    module = (nn.Sequential(graph, nn.Flatten()) if nested else graph).eval()
    graph.get_submodule("1").train()  # one part is left in training mode, as some freeze or unfreeze statistics
    graph.get_submodule("1").momentum = 0.0
    copied = copy_module(module)
    assert [part.training for part in copied.modules()] == [part.training for part in module.modules()]
    assert [type(part).__name__ for part in copied.modules()] == [type(part).__name__ for part in module.modules()]
    assert isinstance(copied.get_submodule("0") if nested else copied, ByMode)
    copied.eval()
    module.eval()
    x = torch.randn(2, 3, 9, 9)
    before = {name: value.clone() for name, value in copied.state_dict().items()}
    assert torch.equal(copied(x), module(x))
    assert all(torch.equal(value, before[name]) for name, value in copied.state_dict().items())
    evaluated = copied(x)
    copied.train()
    assert torch.equal(module(x), evaluated), "the copy's mode must not be the original's"
    assert torch.equal(copied(x), module.train()(x))


def test_tensors_of_autograd_are_copied() -> None:
    module = Taps(by_closure)
    answer = module(torch.randn(1, 3, 9, 9))  # leaves a tensor with a history in `taps`
    copied = copy_module(module)
    assert torch.equal(copied.taps["one"], module.taps["one"])
    assert answer.requires_grad


def test_tensors_take_the_places_of_others() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = module[0].weight
    new = nn.Parameter(torch.zeros(1, 2))
    copied = copy_module(module, {id(module[0].weight): new})
    assert copied[0].weight is new
    assert copied[1].weight is new
    assert module[0].weight.shape == (2, 2)


class Locked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def test_what_cannot_be_copied_is_named() -> None:
    with raises_error(ModelError, "model/not-copyable", "0.1 (Locked)"):
        copy_module(nn.Sequential(nn.Sequential(nn.ReLU(), Locked())))
