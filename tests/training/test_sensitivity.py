"""Gradients and Hessian products of weights, against autograd through gates and the quadratic computed by hand."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from compressor.core import Saliency
from compressor.methods.saliencies import connection, gated_flow, gradient_flow
from compressor.training.sensitivity import sensitivities
from tests.training.toys import toy_data


def pico() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4),
    ).eval()  # fmt: skip


def by_gates(module: nn.Module, batches: list[tuple[Tensor, Tensor]], order: int) -> dict[str, Tensor]:
    """What the papers compute: the derivative to a gate behind every layer, of the loss or of <G, dL/dW>."""
    layers = {name: each for name, each in module.named_modules() if isinstance(each, (nn.Conv2d, nn.Linear))}
    gates = {name: torch.ones(each.weight.shape[0], requires_grad=True) for name, each in layers.items()}

    def gated(name: str):  # type: ignore[no-untyped-def]
        def hook(layer: nn.Module, inputs: object, output: Tensor) -> Tensor:
            return output * gates[name].view(1, -1, *[1] * (output.dim() - 2))

        return hook

    handles = [each.register_forward_hook(gated(name)) for name, each in layers.items()]
    weights = [each.weight for each in layers.values()]
    losses = [nn.functional.cross_entropy(module(images), labels) for images, labels in batches]
    if order == 1:
        found = torch.autograd.grad(torch.stack(losses).sum(), list(gates.values()))
    else:
        total = torch.autograd.grad(torch.stack(losses).sum(), weights, create_graph=True)
        fixed = [each.detach() for each in total]
        along = sum((slope * each).sum() for slope, each in zip(total, fixed, strict=True))
        found = torch.autograd.grad(along, list(gates.values()))
    for handle in handles:
        handle.remove()
    return dict(zip(gates, found, strict=True))


@pytest.mark.parametrize(("value", "order"), [(connection, 1), (gated_flow, 2)])
def test_a_channel_matters_as_much_as_a_gate_behind_it(value, order) -> None:  # type: ignore[no-untyped-def]
    module, data = pico().double(), toy_data(40)
    batches = [
        (images.double(), labels) for images, labels in itertools.islice(data.train_batches(8, epoch=0, seed=3), 3)
    ]
    expected = by_gates(module, batches, order)
    module.float()
    found = sensitivities(module, Saliency("it", value, order, batches=3, batch_size=8), data, 3)
    for name, gate in expected.items():
        rows = found[f"{name}.weight"].flatten(1).sum(1) + found.get(
            f"{name}.bias", torch.zeros(len(gate), dtype=torch.float32)
        )
        assert torch.allclose(rows, gate.float(), rtol=1e-3, atol=1e-5 * float(gate.abs().max()))


def test_pieces_of_a_batch_add_up_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    module, data = pico(), toy_data(40)
    saliency = Saliency("it", gradient_flow, 2, batches=2, batch_size=16)
    whole = sensitivities(module, saliency, data, 0)
    monkeypatch.setattr("compressor.training.sensitivity.NUMBERS", 5 * 3 * 8 * 8)
    pieces = sensitivities(module, saliency, data, 0)
    for name, each in whole.items():
        assert torch.allclose(each, pieces[name], rtol=1e-3, atol=1e-5 * float(each.abs().max()) + 1e-12)


def test_the_model_stays_as_it_is_even_where_statistics_are_those_of_training() -> None:
    module = pico()
    next(iter(module.parameters())).requires_grad_(False)
    before = {name: each.clone() for name, each in module.state_dict().items()}
    sensitivities(module, Saliency("it", connection, training=True, batches=1, batch_size=8), toy_data(), 0)
    assert not module.training
    assert not next(iter(module.parameters())).requires_grad
    assert all(torch.equal(each, before[name]) for name, each in module.state_dict().items())
    assert all(each.grad is None for each in module.parameters())


class Quadratic:
    """L = 1/2 w A w for A = [[2, 1], [1, 3]] as the loss of a linear layer with the weights (1, -2)."""

    A = torch.tensor([[2.0, 1.0], [1.0, 3.0]])

    def __init__(self) -> None:
        self.w = torch.tensor([1.0, -2.0], requires_grad=True)
        (g,) = torch.autograd.grad(0.5 * self.w @ self.A @ self.w, self.w)
        self.g, self.h = g, self.A @ g


def test_the_quadratic_by_hand() -> None:
    case = Quadratic()
    w, g, h = case.w.detach(), case.g, case.h
    assert g.tolist() == [0, -5]
    assert h.tolist() == [-5, -15]
    assert gradient_flow(w, g, h).abs().tolist() == [5, 30]
    assert connection(w, g, h).abs().tolist() == [0, 10]
    assert gated_flow(w, g, h).tolist() == [-5, 55]
    assert gated_flow(w, g, h).sum() == 50
