"""Weights and nodes, by their definition on known networks, and as targets."""

from __future__ import annotations

import pytest
import torch
import torchvision
from failures import raises_error
from torch import Tensor, nn

from compressor.budget.selection import select_channels
from compressor.budget.target import PruningTarget
from compressor.core import Cost
from compressor.criteria.magnitude import l1
from compressor.errors import ModelError, RecipeError
from compressor.graph.cost import count_cost, count_zeros
from compressor.models.cifar import cifar_resnet
from compressor.surgery.analysis import analyze, require_forward
from compressor.surgery.removal import remove_channels


def test_nodes_and_weights_of_a_small_network_by_hand() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ConvTranspose2d(8, 6, 3), nn.Conv2d(6, 6, 3, groups=6), nn.Flatten(),
        nn.Linear(6 * 64, 4),
    ).eval()  # fmt: skip
    found = count_cost(module, torch.randn(1, 3, 10, 10))
    assert found.nodes == 8 + 6 + 6
    assert found.weights == 3 * 8 * 9 + 8 * 6 * 9 + 6 * 9 + 6 * 64 * 4


def test_zeros_are_those_of_weights_that_run() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5)).eval()
    module.register_parameter("idle", nn.Parameter(torch.zeros(7)))
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            tensor.fill_(0.0 if name in ("idle", "0.bias", "1.weight") else 1.0)
        module[0].weight[2] = 0.0
        module[3].weight[0, :6] = 0.0
    assert count_zeros(module, torch.randn(1, 1, 4, 4)) == 9 + 6


def test_nodes_and_weights_of_resnet18() -> None:
    module = torchvision.models.resnet18().eval()
    found = count_cost(module, torch.randn(1, 3, 32, 32))
    assert found.nodes == 64 + 4 * 64 + 5 * 128 + 5 * 256 + 5 * 512
    layers = [each for each in module.modules() if isinstance(each, (nn.Conv2d, nn.Linear))]
    assert found.weights == sum(each.weight.numel() for each in layers)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(4, 4, 1, bias=False), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(self.conv(x)).mean((2, 3)))


def test_a_weight_that_runs_twice_is_one() -> None:
    found = count_cost(Twice().eval(), torch.randn(1, 4, 2, 2))
    assert (found.weights, found.nodes, found.macs) == (16 + 8, 4, 2 * 16 * 4 + 8)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_layers_of_no_channels_cost_nothing(kind: type[nn.Module]) -> None:
    """PyTorch computes the shapes only of such convolutions; linear layers of no channels run, too."""
    assert count_cost(kind(3, 0, 1).to("meta"), torch.randn(1, 3, 8, 8, device="meta")).macs == 0
    assert count_cost(nn.Sequential(nn.Linear(8, 0), nn.Linear(0, 4)), torch.randn(1, 8)).macs == 0


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_models_that_run_in_shapes_only_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 0, 1))
    with raises_error(ModelError, "model-does-not-run/forward-fails"):
        require_forward(model, torch.randn(1, 3, 8, 8), name="toy")


def test_the_least_that_can_remain_is_one_channel_of_every_free_group() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(6 * 36, 4))
    structure = analyze(module.eval(), torch.randn(1, 3, 10, 10), name="it")
    least = structure.cost.least(structure.groups)
    assert least.params == (27 + 1) + (9 + 1) + (36 * 4 + 4)
    assert least.macs == 64 * 27 + 36 * 9 + 36 * 4


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("asked", [{"nodes": 0.34}, {"weights": 0.05}, {"nodes": 0.5, "weights": 0.2}])
def test_targets_hold_on_the_slim_module_and_are_met_narrowly(asked: dict[str, float], scope: str) -> None:
    torch.manual_seed(0)
    module, inputs = cifar_resnet("resnet8").eval(), torch.randn(1, 3, 32, 32)
    structure, original = analyze(module, inputs, name="it"), count_cost(module, inputs)
    graded = l1.score_channels(module, structure.groups)
    plan, _ = select_channels(structure.groups, graded, PruningTarget(**asked, scope=scope), structure.cost, original)
    found = count_cost(remove_channels(module, structure, plan), inputs)
    assert found == structure.cost.of(plan)
    fill = {name: getattr(found, name) / getattr(original, name) / share for name, share in asked.items()}
    assert all(each <= 1 for each in fill.values())
    assert max(fill.values()) > 0.9, "no more goes than has to"


def test_a_share_of_what_was_never_counted_is_refused() -> None:
    module, inputs = cifar_resnet("resnet8").eval(), torch.randn(1, 3, 32, 32)
    structure = analyze(module, inputs, name="it")
    graded = l1.score_channels(module, structure.groups)
    old = Cost(params=100, macs=1000)
    with raises_error(RecipeError, "recipe-does-not-fit-the-model/unknown-original-cost", "prune.target.nodes"):
        select_channels(structure.groups, graded, PruningTarget(nodes=0.5), structure.cost, old)


def test_a_share_of_nothing_is_refused_and_no_earlier_version_is_blamed() -> None:
    structure = analyze(torch.nn.Sequential(torch.nn.BatchNorm2d(4)), torch.randn(1, 4, 2, 2), name="it")
    code = "recipe-does-not-fit-the-model/unknown-original-cost"
    with raises_error(RecipeError, code, "prune.target.macs") as caught:
        select_channels((), {}, PruningTarget(macs=0.5), structure.cost, Cost(params=8, macs=0))
    assert caught.value.problem == "no layer of the model has macs"
