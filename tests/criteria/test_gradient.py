"""Gradients and Hessian products of weights, against autograd through gates and the quadratic computed by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from failures import raises_error
from torch import Tensor, nn

from compressor.core import ChannelGroup, TensorSlot
from compressor.criteria._aggregate import sum_over_writers
from compressor.criteria.gradient import GradientCriterion, gradient_scores
from compressor.criteria.gradient_formulas import crop, crop_gated, snip
from compressor.errors import RecipeError
from compressor.surgery.analysis import analyze
from tests.training.toys import Shortcut, toy_data


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


@pytest.mark.parametrize(("value", "order"), [(snip, 1), (crop_gated, 2)])
def test_a_channel_matters_as_much_as_a_gate_behind_it(value, order) -> None:  # type: ignore[no-untyped-def]
    module, data = pico().double(), toy_data(40)
    batches = [
        (images.double(), labels) for images, labels in itertools.islice(data.train_batches(8, epoch=0, seed=3), 3)
    ]
    expected = by_gates(module, batches, order)
    module.float()
    found = gradient_scores(module, GradientCriterion("it", value, order, batches=3, batch_size=8), data, 3)
    for name, gate in expected.items():
        rows = found[f"{name}.weight"].flatten(1).sum(1) + found.get(
            f"{name}.bias", torch.zeros(len(gate), dtype=torch.float32)
        )
        assert torch.allclose(rows, gate.float(), rtol=1e-3, atol=1e-5 * float(gate.abs().max()))


@pytest.mark.parametrize(("value", "order"), [(snip, 1), (crop_gated, 2)])
def test_layers_that_share_their_channels_share_a_gate(value, order) -> None:  # type: ignore[no-untyped-def]
    """`stem` and `outer` write the channels of one group, `inner` those of another."""
    torch.manual_seed(0)
    module, data = Shortcut().eval(), toy_data(40)
    groups = analyze(module, torch.randn(1, 3, 8, 8), name="net").groups
    saliency = GradientCriterion("it", value, order, batches=2, batch_size=8)
    found = sum_over_writers(groups, gradient_scores(module, saliency, data, 3), signed=False)
    batches = list(itertools.islice(data.train_batches(8, epoch=0, seed=3), 2))
    gates = by_gates(module, batches, order)
    shared = gates["stem"] + gates["outer"]
    expected = {"stem": shared.abs(), "inner": gates["inner"].abs()}
    assert found.keys() == expected.keys()
    for name, gate in expected.items():
        np.testing.assert_allclose(found[name], gate.numpy(), rtol=1e-3, atol=1e-5 * float(gate.max()))
    assert not torch.allclose(shared.abs(), gates["stem"].abs() + gates["outer"].abs(), rtol=0.1), "parts cancel"


def test_parts_of_a_shared_gate_add_up_by_hand() -> None:
    """Two layers of two channels each: -1 + 3 with a bias of 1, and 2 - 2 with one of -6, make |3 - 6| and 9."""
    places = np.array([[0], [1]])
    slots = tuple(TensorSlot(f"{name}.weight", 0, places, "writer") for name in ("a", "b"))
    entries = {
        "a.weight": torch.tensor([[-1.0, 3.0], [4.0, 0.0]]), "a.bias": torch.tensor([1.0, 0.0]),
        "b.weight": torch.tensor([[2.0, -2.0], [5.0, 0.0]]), "b.bias": torch.tensor([-6.0, 0.0]),
    }  # fmt: skip
    groups = [ChannelGroup("a", 2, slots)]
    assert sum_over_writers(groups, entries, signed=False)["a"].tolist() == [3, 9]
    assert sum_over_writers(groups, entries, signed=True)["a"].tolist() == [-3, 9]


class Own(nn.Module):
    """The first convolution of `plain` with a weight that no layer holds."""

    def __init__(self, plain: nn.Sequential) -> None:
        super().__init__()
        self.kernel, self.rest = nn.Parameter(plain[0].weight.detach().clone()), plain[1:]

    def forward(self, images: Tensor) -> Tensor:
        return self.rest(nn.functional.conv2d(images, self.kernel))


def test_weights_that_no_layer_holds_count_like_the_others() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(3, 5, 3, bias=False), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 4),
    )  # fmt: skip
    found = []
    for module in (plain, Own(plain)):
        groups = analyze(module.eval(), torch.randn(1, 3, 8, 8), name="net").groups
        saliency = GradientCriterion("it", crop, 2, batches=1, batch_size=8)
        entries = gradient_scores(module, saliency, toy_data(), 0, groups=groups)
        found.append(sum_over_writers(groups, entries, signed=False))
    (first, second), own = found[0].values(), found[1]
    assert own.keys() == {"kernel", "rest.2"}
    np.testing.assert_allclose(own["kernel"], first, rtol=1e-4)
    np.testing.assert_allclose(own["rest.2"], second, rtol=1e-4)


def test_the_right_class_is_asked_of_data_with_classes_only() -> None:
    saliency = GradientCriterion("it", snip, loss="logit", batches=1, batch_size=8)
    with raises_error(RecipeError, "recipe/logit-without-classes", "data.task", "toy", "loss: task"):
        gradient_scores(pico(), saliency, replace(toy_data(), num_classes=None), 0)


def test_pieces_of_a_batch_add_up_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    module, data = pico(), toy_data(40)
    saliency = GradientCriterion("it", crop, 2, batches=2, batch_size=16)
    whole = gradient_scores(module, saliency, data, 0)
    monkeypatch.setattr("compressor.criteria.gradient.MAX_INPUT_VALUES", 5 * 3 * 8 * 8)
    pieces = gradient_scores(module, saliency, data, 0)
    for name, each in whole.items():
        assert torch.allclose(each, pieces[name], rtol=1e-3, atol=1e-5 * float(each.abs().max()) + 1e-12)


def test_the_model_stays_as_it_is_even_where_statistics_are_those_of_training() -> None:
    module = pico()
    next(iter(module.parameters())).requires_grad_(False)
    before = {name: each.clone() for name, each in module.state_dict().items()}
    gradient_scores(module, GradientCriterion("it", snip, training=True, batches=1, batch_size=8), toy_data(), 0)
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
    assert crop(w, g, h).abs().tolist() == [5, 30]
    assert snip(w, g, h).abs().tolist() == [0, 10]
    assert crop_gated(w, g, h).tolist() == [-5, 55]
    assert crop_gated(w, g, h).sum() == 50
